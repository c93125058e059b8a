"""The VQ-VAE of Wang et al. 2020, section 4.3.2, with the number of strided convolutions made consistent.

The paper's six stride-2 convolutions would give 4 x 4 from 256 x 256, yet it states 32 x 32; here
log2(downsample) of them do. Shapes below: B images, C image channels, S side, s = S / downsample.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from components import parallel
from components.settings import VQVAE as Config
from components.vqvae.codebook import Codebook


class Residual(nn.Module):
    """x + Conv1(ReLU(Conv3(ReLU(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def widths(channels: int, downsample: int) -> list[int]:
    """Channels after each halving: the first, at the largest size and so the dearest, gets half."""
    return [channels // 2] + [channels] * (int(math.log2(downsample)) - 1)


def encoder(image_channels: int, config: Config) -> nn.Sequential:
    """(B, C, S, S) to (B, D, s, s)."""
    layers: list[nn.Module] = []
    before = image_channels
    for width in widths(config.channels, config.downsample):
        layers += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.ReLU()]
        before = width
    layers.append(nn.Conv2d(before, config.channels, 3, padding=1))
    layers += [Residual(config.channels) for _ in range(config.residual_blocks)]
    layers.append(nn.Conv2d(config.channels, config.code_dim, 1))
    return nn.Sequential(*layers)


def decoder(image_channels: int, config: Config) -> nn.Sequential:
    """(B, D, s, s) to (B, C, S, S): the encoder mirrored, with transposed convolutions."""
    layers: list[nn.Module] = [nn.Conv2d(config.code_dim, config.channels, 3, padding=1)]
    layers += [Residual(config.channels) for _ in range(config.residual_blocks)]
    after = [*reversed(widths(config.channels, config.downsample)[:-1]), image_channels]
    before = config.channels
    for width in after:
        layers += [nn.ReLU(), nn.ConvTranspose2d(before, width, 4, stride=2, padding=1)]
        before = width
    return nn.Sequential(*layers)


class VQVAE(nn.Module):
    """Encoder, codebook, decoder over images in [0, 1].

    What the codes are made of, its `latent`, is the image itself: `features` and `expected` are there so that all
    that follows the codes need not ask over what they are (components.features.model has the other answer).
    """

    latent = "pixels"

    allocates = False  # whether regions differ in how many codes they get: components/vqvae/patches.py
    parts = 1  # of the codebook: how many kinds of code there are
    encoder: nn.Module

    def __init__(self, image_channels: int, config: Config) -> None:
        super().__init__()
        self.encoder = self.make_encoder(image_channels, config)
        self.codebook = Codebook(
            config.codebook_size, config.code_dim, config.codebook, config.decay, config.revive_below, self.parts
        )
        self.decoder = decoder(image_channels, config)

    @staticmethod
    def make_encoder(image_channels: int, config: Config) -> nn.Module:
        """(B, C, S, S) to (B, D, s, s)."""
        return encoder(image_channels, config)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, C, S, S): reconstruction, codes (B, s, s), codebook loss, commitment loss."""
        quantised, codes, codebook, commitment = self.codebook(self.encoder(x))
        return self.decoder(quantised), codes, codebook, commitment

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x (B, C, S, S): what to minimise of the reconstruction, its mean squared error, codes (B, s, s),
        codebook loss, commitment loss.

        Both terms of Eq. 3 are sums over elements in the paper; per-element means keep beta's meaning whatever
        the size, with the reconstruction scaled by the data's variance (van den Oord 2017).
        """
        reconstruction, codes, codebook, commitment = self(x)
        error = F.mse_loss(reconstruction.float(), x)
        return error / parallel.variance(x), error, codes, codebook, commitment

    def features(self, x: Tensor) -> Tensor:
        """What the codes are made of: the images (B, C, S, S) as they are."""
        return x

    def quantise(self, features: Tensor) -> Tensor:
        """`features` of B images to codes (B, s, s)."""
        return self.codebook.indices(self.encoder(features))

    def allocate(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """`features` to codes (B, s, s), and the probability (B, s, s) with which a position gets one of its own;
        None where all do."""
        return self.quantise(features), None

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, S, S) to codes (B, s, s)."""
        return self.quantise(self.features(x))

    def expected(self, codes: Tensor) -> Tensor:
        """Codes (B, s, s) to the features that they stand for: the picture."""
        return self.decode(codes)

    def coarse(self, codes: Tensor) -> Tensor | None:
        """Where codes (B, s, s) stand for more than their own position; None where none can."""
        return None

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, s, s) to images (B, C, S, S)."""
        return self.decoder(self.codebook.lookup(codes)).float()
