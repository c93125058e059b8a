"""A byte for each number: never off by more than half a step, and exact from then on."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from components.normality.steps import counted, pack, step, stepped, unpack

NUMBERS = arrays.arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False))


@given(NUMBERS)
def test_no_number_moves_by_more_than_half_a_step(drawn):
    x = torch.from_numpy(drawn)
    size = step(x, 1)
    assert size.shape == (3, 1)
    assert torch.equal(torch.frexp(size).mantissa, torch.full_like(size, 0.5))  # powers of two
    assert ((stepped(x, 1) - x).abs() <= size / 2).all()
    largest = x.abs().amax(1, keepdim=True)
    assert (largest <= 127 * size).all()
    assert (largest > 63.5 * size).logical_or(largest < 1e-30).all()  # no smaller step would do


@given(NUMBERS)
def test_what_was_rounded_once_stays_as_it_is(drawn):
    x = stepped(torch.from_numpy(drawn), 0)
    size = step(x, 0)
    assert torch.equal(torch.from_numpy(counted(x, size)).float() * size, x)
    assert torch.equal(x.to(torch.bfloat16).float(), x)


@given(arrays.arrays(np.float32, (2, 5, 5), elements=st.floats(-100, 100, width=32, allow_subnormal=False)))
def test_a_packed_triangle_is_the_same_again(drawn):
    factor = stepped(torch.from_numpy(drawn).tril(), 1)
    packed, size = pack(factor)
    assert packed.dtype == np.int8 and packed.shape == (2, 15) and packed.flags.c_contiguous
    assert torch.equal(unpack(packed, size), factor)
