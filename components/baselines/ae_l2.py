"""AE-L2 (Bergmann et al. 2019, section 4.1): an autoencoder's squared error.

Loss: mean (x - y)^2. Map: sqrt(sum over channels of (x - y)^2), filtered as our own residuals are.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from components.baselines.autoencoder import Autoencoder


class AEL2(Autoencoder):
    """Autoencoder with the L2 loss."""

    title = "AE-L2 (Bergmann et al. 2019)"

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(y, x)

    def maps(self, x: Tensor) -> np.ndarray:
        return self.residual(x, self.reconstruct(x))
