"""Where tensors live and in what precision the network runs."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TypeVar

import torch
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>

Model = TypeVar("Model", bound=nn.Module)


def find_device() -> torch.device:
    """CUDA if there is one, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def place(model: Model, device: torch.device) -> Model:
    """Move a model, with its convolutions channels last in memory: on CPUs with AMX one VQ-VAE step then
    takes a third to a half of the time (measured, docs/numbers.md)."""
    model.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def keep_memory() -> None:
    """Have the C library keep freed memory for this process, where it is GNU's; elsewhere nothing changes.

    It gives large blocks back to the system at once and gets new ones for the next layer, whose every page the system
    then clears: that took as long as the backbone's arithmetic (docs/numbers.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32; elsewhere float32.

    A CPU without AVX512-BF16 or AMX emulates bfloat16 and is slower with it, hence the question to oneDNN.
    """
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    fast = fast or (device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Networks in `fast_dtype`. Half precision is for training, features, what is expected of them and pictures;
    likelihoods, which decide whether a code is replaced, are always computed in float32."""
    if fast_dtype(device) == torch.bfloat16:
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
