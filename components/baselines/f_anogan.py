"""f-AnoGAN (Schlegl et al. 2019): what a generator of normal images cannot draw.

1. Wasserstein GAN with gradient penalty. Critic: E D(G(z)) - E D(x) + lambda E (|grad D(x^)| - 1)^2 at x^ on the
   lines between real and drawn images; generator: -E D(G(z)).
2. Encoder, izi_f: mean |x - G(E(x))|^2 + kappa mean |f(x) - f(G(E(x)))|^2, f the critic's last features; the
   generator and critic are frozen.

Map: sqrt(sum over channels of (x - G(E(x)))^2), at the network's side (64 x 64 as in the paper), enlarged. One
AdamW serves critic and generator in turn: a network without a gradient is left as it is.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.baselines.job import Baseline, Frame, Job, halvings
from components.baselines.settings import FAnoGAN as Config
from components.device import autocast

START = 4  # pixels per side that the generator starts from


def contraction(inputs: int, channels: int, count: int) -> tuple[nn.Sequential, int]:
    """`count` halvings, channels doubling; no batch norm, since the penalty is per image. Layers, last width."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers += [nn.Conv2d(inputs, channels * 2**i, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        inputs = channels * 2**i
    return nn.Sequential(*layers, nn.Flatten()), inputs


class FAnoGAN(Baseline):
    """Generator (B, Z) to (B, C, s, s), critic to (B, 1), encoder to (B, Z)."""

    title = "f-AnoGAN (Schlegl et al. 2019)"

    def __init__(self, frame: Frame, config: Config) -> None:
        super().__init__()
        self.frame, self.config = frame, config
        self.side = min(config.side, frame.size)
        count, start = halvings(self.side, START)
        self.features, width = contraction(frame.channels, config.channels, count)
        flat = width * start * start
        self.critic = nn.Linear(flat, 1)
        trunk, _ = contraction(frame.channels, config.channels, count)
        self.encoder = nn.Sequential(trunk, nn.Linear(flat, config.latent), nn.Tanh())
        layers: list[nn.Module] = [nn.Linear(config.latent, flat), nn.Unflatten(1, (width, start, start))]
        for i in reversed(range(count)):
            after = config.channels * 2 ** (i - 1) if i else frame.channels
            layers += [nn.GroupNorm(8 if width % 8 == 0 else 1, width), nn.ReLU(),
                       nn.ConvTranspose2d(width, after, 4, stride=2, padding=1)]  # fmt: skip
            width = after
        self.generator = nn.Sequential(*layers, nn.Sigmoid())

    def shrink(self, x: Tensor) -> Tensor:
        """(B, C, S, S) to (B, C, s, s), by area."""
        return F.interpolate(x, size=(self.side, self.side), mode="area")

    def noise(self, like: Tensor) -> Tensor:
        """Latents (B, Z), uniform in [-1, 1], where the encoder's tanh can reach them."""
        return 2 * torch.rand(len(like), self.config.latent, device=like.device) - 1

    def fit(self, job: Job) -> float:
        return self._fit_gan(job) + self._fit_encoder(job)

    def _fit_gan(self, job: Job) -> float:
        config, held_out = self.config, self.shrink(job.held_out())
        critic, turn = nn.ModuleList([self.features, self.critic]), config.critic_steps + 1

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            real = self.shrink(job.batch(step, config.batch))
            drawing = step % turn == turn - 1
            critic.requires_grad_(not drawing)
            self.generator.requires_grad_(drawing)
            if drawing:
                with autocast(job.device):
                    loss = -self.critic(self.features(self.generator(self.noise(real)))).float().mean()
                return loss, {"generator": loss.item()}
            with torch.no_grad():
                drawn = self.generator(self.noise(real))
            distance = self.critic(self.features(real)).mean() - self.critic(self.features(drawn)).mean()
            loss = config.penalty * self.penalty(real, drawn) - distance
            return loss, {"wasserstein": distance.item()}

        def validate() -> float:
            drawn = self.generator(self.noise(held_out))
            return (self.critic(self.features(held_out)).mean() - self.critic(self.features(drawn)).mean()).item()

        seconds = job.fit(self, config.steps, config.learning_rate, loss_of, validate, "-gan")
        self.requires_grad_(True)
        return seconds

    def penalty(self, real: Tensor, drawn: Tensor) -> Tensor:
        """E (|grad D| - 1)^2 between them. Float32: it is differentiated twice."""
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = (share * real + (1 - share) * drawn).requires_grad_()
        judged = self.critic(self.features(between)).sum()
        (slope,) = torch.autograd.grad(judged, between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    def _fit_encoder(self, job: Job) -> float:
        config, held_out = self.config, self.shrink(job.held_out())
        self.requires_grad_(False)
        self.encoder.requires_grad_(True)

        def izi_f(x: Tensor) -> Tensor:
            y = self.generator(self.encoder(x))
            return F.mse_loss(y, x) + config.kappa * F.mse_loss(self.features(y), self.features(x))

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            x = self.shrink(job.batch(step, config.batch))
            with autocast(job.device):
                loss = izi_f(x)
            return loss, {"loss": loss.item()}

        seconds = job.fit(
            self, config.encoder_steps, config.learning_rate, loss_of, lambda: izi_f(held_out).item(), "-encoder"
        )
        self.requires_grad_(True)
        return seconds

    @torch.no_grad()
    def maps(self, x: Tensor) -> np.ndarray:
        y = self.generator(self.encoder(self.shrink(x)))
        # Both at the network's side first: a difference of detail that it never saw says nothing.
        both = [
            F.interpolate(image, size=x.shape[2:], mode="bilinear", align_corners=False)
            for image in (self.shrink(x), y)
        ]
        return self.residual(*both)
