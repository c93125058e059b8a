"""VAE with attention maps (Liu et al. 2020): which features of the encoder make the latents abnormal.

Training: the evidence lower bound, |x - y|^2 / (2 sigma^2) + KL(N(mu, exp(logvar)) | N(0, 1)).
For latent i, feature maps A_k of the encoder's last convolution and GAP the mean over positions (Grad-CAM):

    alpha_k^i = GAP(d s_i / d A_k),   M^i = ReLU(sum_k alpha_k^i A_k),   M = mean_i M^i

They attend to samples of the normal difference distribution N(mu(x) - mu(normal), both variances). Here s_i =
u_i^2 / 2 with u_i that distribution's mean in units of its deviation: no noise in a verdict, and a latent that
does not depart from normal draws no attention. Images are B x C x S x S, features K x a x a, D latents.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.arrays import to_tensor
from components.baselines.autoencoder import down, up
from components.baselines.job import Baseline, Frame, Job, halvings, upsample
from components.baselines.settings import VAEAttention as Config
from components.device import autocast

NORMALS = 256  # training images whose latents say what is normal


class VAEAttention(Baseline):
    """Encoder features, dense layers to the latents, decoder; `usual` and `spread` (D) of normal latents."""

    title = "VAE with attention maps (Liu et al. 2020)"
    usual: Tensor
    spread: Tensor

    def __init__(self, frame: Frame, config: Config) -> None:
        super().__init__()
        self.frame, self.config = frame, config
        count, side = halvings(frame.size, config.side)
        self.features, width = down(frame.channels, config.channels, count)
        # A hidden layer between: were the latents linear in the features, their gradient would be the same
        # for every image.
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(width * side * side, config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, 2 * config.latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(config.latent, config.hidden), nn.ReLU(), nn.Linear(config.hidden, width * side * side),
            nn.Unflatten(1, (width, side, side)), up(frame.channels, config.channels, count),
        )  # fmt: skip
        self.register_buffer("usual", torch.zeros(config.latent))
        self.register_buffer("spread", torch.ones(config.latent))

    def latents(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, D) of the posterior, from features (B, K, a, a)."""
        mean, logvar = self.head(features).float().chunk(2, 1)
        return mean, logvar.clamp(-12, 6)

    def bound(self, x: Tensor) -> Tensor:
        """The negative evidence lower bound per pixel and channel, a scalar."""
        mean, logvar = self.latents(self.features(x))
        y = self.decoder(mean + torch.randn_like(mean) * (logvar / 2).exp()).float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        return F.mse_loss(y, x) / (2 * self.config.variance) + divergence / x[0].numel()

    def fit(self, job: Job) -> float:
        config, held_out = self.config, job.held_out()

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            x = job.batch(step, config.batch)
            with autocast(job.device):
                loss = self.bound(x)
            return loss, {"loss": loss.item()}

        seconds = job.fit(self, config.steps, config.learning_rate, loss_of, lambda: self.bound(held_out).item())
        self._learn_normal(job)
        return seconds

    @torch.no_grad()
    def _learn_normal(self, job: Job) -> None:
        images = job.draw(NORMALS)
        parts = [
            self.latents(self.features(to_tensor(images[i : i + self.config.batch], job.white, job.device)))[0]
            for i in range(0, len(images), self.config.batch)
        ]
        means = torch.cat(parts)
        self.usual.copy_(means.mean(0))
        self.spread.copy_(means.std(0, correction=0).clamp_min(1e-3))

    def maps(self, x: Tensor) -> np.ndarray:
        with torch.enable_grad():  # attention is made of gradients, in inference too
            features = self.features(x).detach().requires_grad_()
            mean, logvar = self.latents(features)
            departure = (mean - self.usual) / (self.spread.square() + logvar.exp()).sqrt()
            scores = departure.square().sum(0) / 2  # images do not mix: a sum over them keeps each one's gradient
            attention = torch.zeros_like(features[:, 0])
            for index in range(len(scores)):
                (slope,) = torch.autograd.grad(scores[index], features, retain_graph=True)
                weights = slope.mean((2, 3), keepdim=True)
                attention = attention + F.relu((weights * features).sum(1)).detach()
        return upsample(attention / len(scores), self.frame.size).detach().cpu().numpy()
