"""The split's promise: a new image never moves an old one."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.dataset.manifest import Row, to_frame
from components.dataset.split import assign_parts, more_for, part_of, uniform
from components.errors import UserError


def manifest(contents: list[bytes], part: str = "train") -> pd.DataFrame:
    return to_frame(
        Row(f"{part}/{i:04d}.png", part, 0, "good", sha256=hashlib.sha256(content).hexdigest())
        for i, content in enumerate(contents)
    )


def split(frame: pd.DataFrame, val: float = 0.1, calib: float = 0.15) -> dict[str, str]:
    try:
        out = assign_parts(frame, val, calib)
    except UserError:
        return {}
    return dict(zip(out["sha256"], out["part"], strict=True))


contents = st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=80, unique=True)


@settings(max_examples=150, deadline=None)
@given(contents, contents, st.integers(1, 45), st.integers(1, 45))
def test_new_images_never_move_old_ones(old: list[bytes], new: list[bytes], val: int, calib: int) -> None:
    """Also across names: the new set is shuffled in before the old one."""
    before = split(manifest(old), val / 100, calib / 100)
    after = split(manifest([*(c for c in new if c not in old), *old]), val / 100, calib / 100)
    if before:
        assert after, "a set that has every part keeps every part when it grows"
        assert {sha: after[sha] for sha in before} == before


@given(st.binary(min_size=1, max_size=20))
def test_parts_grow_with_their_fractions(content: bytes) -> None:
    sha = hashlib.sha256(content).hexdigest()
    assert 0 <= uniform(sha) < 1
    if part_of(sha, 0.1, 0.15) == "val":
        assert part_of(sha, 0.3, 0.15) == "val"


def test_fractions_are_met_over_many_images() -> None:
    parts = assign_parts(manifest([str(i).encode() for i in range(20_000)]), 0.1, 0.15)["part"]
    share = parts.value_counts(normalize=True)
    assert share["val"] == pytest.approx(0.1, abs=0.01)
    assert share["calib"] == pytest.approx(0.15, abs=0.01)


def test_test_images_stay_test() -> None:
    train, test = manifest([str(i).encode() for i in range(100)]), manifest([b"a", b"b"], "test")
    out = assign_parts(pd.concat([train, test], ignore_index=True), 0.1, 0.15)
    assert list(out["part"].iloc[-2:]) == ["test", "test"]
    assert set(train["part"]) == {"train"}, "the input is left as it was"


def test_an_empty_part_asks_for_more_images() -> None:
    only_train = [c for c in (str(i).encode() for i in range(60)) if uniform(hashlib.sha256(c).hexdigest()) >= 0.25]
    with pytest.raises(UserError, match=r"into the 'val' part .* add about 44 normal images"):
        assign_parts(manifest(only_train), 0.1, 0.15)


def test_two_calibration_images_are_too_few_before_the_training_not_after_it() -> None:
    names = [str(i).encode() for i in range(200)]
    parts = {part: [] for part in ("train", "val", "calib")}
    for name in names:
        parts[part_of(hashlib.sha256(name).hexdigest(), 0.1, 0.15)].append(name)
    some = [*parts["train"][:20], *parts["val"][:3], *parts["calib"][:2]]
    with pytest.raises(UserError, match=r"2 of the 25 normal images .* 'calib' part .* 3 must; add about 29 normal"):
        assign_parts(manifest(some), 0.1, 0.15)
    assign_parts(manifest([*some, parts["calib"][2]]), 0.1, 0.15)


@given(st.integers(1, 5), st.floats(0.05, 0.5))
def test_as_many_more_as_are_asked_for_nearly_always_do(missing: int, fraction: float) -> None:
    count = more_for(missing, fraction)
    drawn = np.random.default_rng(0).binomial(count, fraction, 4000)
    assert (drawn < missing).mean() < 0.02


@pytest.mark.parametrize(("val", "calib"), [(0.0, 0.1), (0.1, 0.0), (0.5, 0.5), (-0.1, 0.2)])
def test_fractions_that_leave_a_part_empty(val: float, calib: float) -> None:
    with pytest.raises(UserError, match="together below 1"):
        assign_parts(manifest([b"a"]), val, calib)
