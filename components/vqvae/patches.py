"""The patch-aware VQ-VAE: fine codes where there is much to tell, coarse ones where there is little.

A router looks at the encoder's features and decides for each cell of 2 x 2 positions: one coarse code for all four,
or four fine ones. It is trained with a hard Gumbel-softmax, whose gradient passes straight through, under the budget
of components/vqvae/budget.py; in use it takes the more likely. (After dynamic vector quantisation, Huang et al.,
CVPR 2023; for defects Cheng et al., arXiv 2501.09187.)

The codes still lie on one s x s grid: a coarse code stands at all four positions of its cell, and the upper half
of the codebook is coarse. So the codes tell the allocation, the prior learns both in one, and whatever comes after
the codes (prior, restoration, scores, package) is the same as without it.

Shapes: B images, S their side, s = S / downsample (even), r = s / 2 cells to a side, K codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components import parallel
from components.settings import VQVAE as Config
from components.vqvae.budget import budget_loss, budgets, richness
from components.vqvae.model import VQVAE, Residual, encoder

CELL = 2  # positions to a side of the region that one coarse code stands for
FINE, COARSE = 0, 1  # the router's channels, and the halves of the codebook
TEMPERATURE = 1.0  # of the Gumbel-softmax, as in the paper that named it (Jang et al. 2017)


def spread(cells: Tensor) -> Tensor:
    """(..., r, r) to (..., s, s): each cell's value at all of its positions."""
    return cells.repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)


def gate(logits: Tensor, training: bool) -> Tensor:
    """The router's logits (B, 2, r, r) to a choice, one-hot over the channels.

    Drawn by the probabilities while training, with their gradient; the more likely one otherwise.
    """
    if training:
        return F.gumbel_softmax(logits.float(), TEMPERATURE, hard=True, dim=1)
    return F.one_hot(logits.argmax(1), 2).movedim(-1, 1).float()


class PatchEncoder(nn.Module):
    """The plain encoder, a coarser head beside its own, and the router between the two."""

    def __init__(self, image_channels: int, config: Config) -> None:
        super().__init__()
        *trunk, fine = encoder(image_channels, config)
        width = config.channels
        self.trunk, self.fine = nn.Sequential(*trunk), fine
        self.halve = nn.Sequential(nn.Conv2d(width, width, 4, stride=CELL, padding=1), Residual(width))
        self.coarse = nn.Conv2d(width, config.code_dim, 1)
        self.router = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.ReLU(), nn.Conv2d(width, 2, 1))

    def grains(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, C, S, S) to its fine vectors (B, D, s, s), its coarse ones (B, D, r, r) and the router's logits
        (B, 2, r, r), float32."""
        features = self.trunk(x)
        halved = self.halve(features)
        logits = self.router(torch.cat([F.avg_pool2d(features, CELL), halved], 1))
        return self.fine(features).float(), self.coarse(halved).float(), logits.float()

    def allocated(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, C, S, S) to the vectors that the router chose (B, D, s, s), which half of the codebook each is for
        (B, s, s), and the logits (B, 2, r, r)."""
        fine, coarse, logits = self.grains(x)
        choice = spread(gate(logits, self.training))
        z = choice[:, FINE : FINE + 1] * fine + choice[:, COARSE:] * spread(coarse)
        return z, choice.argmax(1), logits

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) to (B, D, s, s), as the plain encoder."""
        return self.allocated(x)[0]


class PatchVQVAE(VQVAE):
    """VQ-VAE with codes of two sizes, over images in [0, 1]."""

    allocates = True
    parts = 2
    encoder: PatchEncoder

    def __init__(self, image_channels: int, config: Config) -> None:
        super().__init__(image_channels, config)
        self.config = config

    @staticmethod
    def make_encoder(image_channels: int, config: Config) -> nn.Module:
        return PatchEncoder(image_channels, config)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._pass(x)[:4]

    def _pass(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        z, part, logits = self.encoder.allocated(x)
        quantised, codes, codebook, commitment = self.codebook(z, part)
        return self.decoder(quantised), codes, codebook, commitment, logits

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As of the plain one, with the budget loss in what is to be minimised."""
        reconstruction, codes, codebook, commitment, logits = self._pass(x)
        error = F.mse_loss(reconstruction.float(), x)
        rich = richness(x, CELL * x.shape[-1] // codes.shape[-1])
        over = budget_loss(logits.softmax(1)[:, FINE], budgets(rich, self.config.budget))
        return error / parallel.variance(x) + self.config.budget_weight * over, error, codes, codebook, commitment

    def quantise(self, features: Tensor) -> Tensor:
        return self.allocate(features)[0]

    def allocate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        z, part, logits = self.encoder.allocated(features)
        return self.codebook.indices(z, part), spread(logits.softmax(1)[:, FINE])

    def coarse(self, codes: Tensor) -> Tensor:
        """Where codes (B, s, s) stand for a whole cell: bool (B, s, s)."""
        return codes >= self.codebook.run
