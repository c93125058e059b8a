"""The convolutional autoencoder that AE-L2 and AE-SSIM share (Bergmann et al. 2018, table 1, made smaller).

Strided 4 x 4 convolutions down to 8 x 8, one dense layer to the bottleneck, and the mirror image of both.
Images are B x C x S x S.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from components.baselines.job import Baseline, Frame, Job, halvings
from components.baselines.settings import Autoencoder as Config
from components.device import autocast

BOTTOM = 8  # pixels per side where the dense layer takes over


def down(inputs: int, channels: int, count: int) -> tuple[nn.Sequential, int]:
    """`count` halvings; channels double after every second. Returns the layers and the last channel number."""
    layers: list[nn.Module] = []
    for i in range(count):
        width = channels * 2 ** (i // 2)
        layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        inputs = width
    return nn.Sequential(*layers), inputs


def up(outputs: int, channels: int, count: int) -> nn.Sequential:
    """The layers of `down` mirrored, ending in `outputs` channels without an activation."""
    widths = [channels * 2 ** (i // 2) for i in range(count)]
    layers: list[nn.Module] = []
    for before, after in zip(reversed(widths), [*reversed(widths[:-1]), outputs], strict=True):
        last = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
        layers += [nn.LeakyReLU(0.2), last]
    # Grey to begin with: against black, SSIM hardly has a slope.
    assert last.bias is not None, "a layer made with a bias has one"
    nn.init.constant_(last.bias, 0.5)
    return nn.Sequential(*layers)


class Autoencoder(Baseline):
    """y = decode(encode(x)); a subclass says what differs between x and y."""

    def __init__(self, frame: Frame, config: Config) -> None:
        super().__init__()
        self.frame, self.config = frame, config
        count, side = halvings(frame.size, BOTTOM)
        features, width = down(frame.channels, config.channels, count)
        self.encoder = nn.Sequential(features, nn.Conv2d(width, config.latent, side))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(config.latent, width, side), up(frame.channels, config.channels, count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) in [0, 1] to the same."""
        return self.decoder(self.encoder(x)).float()

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """What is minimised, a scalar."""

    def fit(self, job: Job) -> float:
        config, held_out = self.config, job.held_out()

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            x = job.batch(step, config.batch)
            with autocast(job.device):
                y = self(x)
            loss = self.loss(x, y)
            return loss, {"loss": loss.item()}

        def validate() -> float:
            return self.loss(held_out, self(held_out)).item()

        return job.fit(self, config.steps, config.learning_rate, loss_of, validate)

    @abstractmethod
    def maps(self, x: Tensor) -> np.ndarray:
        """See Baseline."""

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """y, without gradients."""
        return self(x)
