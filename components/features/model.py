"""The VQ-VAE over features in place of pixels: the same codebook, the same codes, another thing to rebuild.

A frozen network says what each place of the image looks like; a small autoencoder with a codebook learns which
looks are normal. All that follows the codes (prior, eta, restoration) is the pixel VQ-VAE's. A light decoder
draws a picture of the codes, for people: no score depends on it, and no gradient of it reaches the codes.

Shapes: B images, S their side, s = S / downsample, F features at each place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components import parallel
from components.device import autocast
from components.features.backbone import CHANNELS, Backbone
from components.features.places import at_places
from components.settings import COARSEST
from components.settings import VQVAE as Config
from components.vqvae.codebook import Codebook
from components.vqvae.model import Residual, widths

FEATURES = sum(CHANNELS.values())
AT_ONCE = 4  # images in the backbone: the layers of more are so large that each is memory new from the system
DRAWN = 8  # images of a batch that the picture decoder learns from: the picture is for eyes, its loss for no score
PENCIL = 64  # hidden channels of the picture decoder


class FeatureVQVAE(nn.Module):
    """Backbone, encoder, codebook, decoder over features; and a picture decoder."""

    latent = "features"
    allocates = False
    mean: Tensor
    scale: Tensor

    def __init__(self, image_channels: int, config: Config) -> None:
        super().__init__()
        self.downsample, self.zoom = config.downsample, config.zoom
        width = config.channels
        self.backbone = Backbone()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.encoder = nn.Sequential(
            nn.Conv2d(FEATURES, width, 1), *(Residual(width) for _ in range(config.residual_blocks)),
            nn.ReLU(), nn.Conv2d(width, config.code_dim, 1),
        )  # fmt: skip
        self.codebook = Codebook(
            config.codebook_size, config.code_dim, config.codebook, config.decay, config.revive_below
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, width, 3, padding=1), *(Residual(width) for _ in range(config.residual_blocks)),
            nn.ReLU(), nn.Conv2d(width, FEATURES, 1),
        )  # fmt: skip
        drawn: list[nn.Module] = [nn.Conv2d(config.code_dim, PENCIL, 3, padding=1), Residual(PENCIL), Residual(PENCIL)]
        for _ in widths(PENCIL, config.downsample)[1:]:
            drawn += [nn.ReLU(), nn.ConvTranspose2d(PENCIL, PENCIL, 4, stride=2, padding=1)]
        drawn += [nn.ReLU(), nn.ConvTranspose2d(PENCIL, image_channels, 4, stride=2, padding=1)]
        self.picture = nn.Sequential(*drawn)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Images (B, C, S, S) in [0, 1] to standardised features float32 (B, F, s, s)."""
        raw = torch.cat([self.raw(some) for some in x.split(AT_ONCE)])
        return (raw - self.mean[:, None, None]) / self.scale[:, None, None]

    def raw(self, x: Tensor) -> Tensor:
        """The same before they are standardised."""
        side = x.shape[-1] // self.downsample
        # Half precision halves the backbone's time and is what training saw; all that follows is in single.
        with autocast(x.device):
            layers = self.backbone(self.enlarged(x)).values()
        return torch.cat([at_places(layer, side) for layer in layers], 1)

    def enlarged(self, x: Tensor) -> Tensor:
        """Images (B, C, S, S) as the backbone sees them: `zoom` times as large, in whole cells of its coarsest layer.

        A cell then covers fewer pixels and says more exactly where something is, also when the enlarging adds nothing.
        """
        side = COARSEST * round(self.zoom * x.shape[-1] / COARSEST)
        return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False) if side != x.shape[-1] else x

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Set mean and scale so that the features of the images x have mean 0 and variance 1, each."""
        self.mean.zero_()
        self.scale.fill_(1)
        raw = self.features(x)
        self.mean.copy_(raw.mean((0, 2, 3)))
        self.scale.copy_(raw.std((0, 2, 3)).clamp_min(1e-3))

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x (B, C, S, S): what to minimise of the reconstruction, its mean squared error, codes (B, s, s),
        codebook loss, commitment loss."""
        target = self.features(x)
        quantised, codes, codebook, commitment = self.codebook(self.encoder(target))
        error = F.mse_loss(self.decoder(quantised).float(), target)
        drawn = max(DRAWN // parallel.size(), 1)
        picture = F.mse_loss(self.picture(quantised[:drawn].detach()).float(), x[:drawn]) / parallel.variance(x)
        return error + picture, error, codes, codebook, commitment

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, S, S) to codes (B, s, s)."""
        return self.quantise(self.features(x))

    def quantise(self, features: Tensor) -> Tensor:
        """Standardised features (B, F, s, s) to codes (B, s, s)."""
        return self.codebook.indices(self.encoder(features))

    def allocate(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes, and None, as of the plain pixel VQ-VAE: every position has a code of its own."""
        return self.quantise(features), None

    def coarse(self, codes: Tensor) -> Tensor | None:
        """None: no code stands for more than its own position."""
        return None

    def expected(self, codes: Tensor) -> Tensor:
        """Codes (B, s, s) to the standardised features that they stand for, (B, F, s, s). No code
        hangs on them: they come in half precision, as the backbone's do."""
        with autocast(codes.device):
            expected = self.decoder(self.codebook.lookup(codes))
        return expected.float()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, s, s) to a picture (B, C, S, S)."""
        return self.picture(self.codebook.lookup(codes)).float()

    def train(self, mode: bool = True) -> FeatureVQVAE:
        super().train(mode)
        self.backbone.eval()
        return self
