"""AE-SSIM (Bergmann et al. 2018): an autoencoder trained and judged by structural similarity.

Loss: 1 - mean SSIM(x, y). Map: 1 - mean over channels of SSIM(x, y).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from components.baselines.autoencoder import Autoencoder
from components.baselines.ssim import ssim


class AESSIM(Autoencoder):
    """Autoencoder with the SSIM loss."""

    title = "AE-SSIM (Bergmann et al. 2018)"

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return 1 - ssim(x, y).mean()

    def maps(self, x: Tensor) -> np.ndarray:
        return (1 - ssim(x, self.reconstruct(x)).mean(1)).cpu().numpy()
