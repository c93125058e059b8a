"""The threshold: the score that few normal parts in a hundred exceed.

An image's score is a maximum over many places, so over normal images it follows, nearly, a Gumbel distribution
(Fisher & Tippett 1928): P(score <= t) = exp(-exp(-(t - m) / b)), with b = sqrt(6) / pi standard deviations and
m = mean - 0.5772 b. Its quantile stands in for the largest score among a few dozen images, which is the paper's
threshold: that one hangs on a single image, and one new part in N + 1 exceeds it, whatever anybody wants.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.errors import UserError


def threshold(normal_scores: Sequence[float], false_alarms: float) -> float:
    """The score that a share `false_alarms` of normal images is to exceed, from some of their scores.

    Raises UserError when the share is not between 0 and 1.
    """
    if not 0 < false_alarms < 1:
        raise UserError(f"calibrate.false_alarms is {false_alarms:g}; it is a share between 0 and 1, for example 0.01")
    scores = np.asarray(normal_scores, float)
    b = scores.std(ddof=1) * np.sqrt(6) / np.pi if len(scores) > 1 else 0.0
    return float(scores.mean() - np.euler_gamma * b - b * np.log(-np.log1p(-false_alarms)))
