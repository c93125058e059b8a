"""What the surface looks like around each place: the strength of waves of several lengths and directions.

Two pictures of a grain differ pixel by pixel and look alike: what the eye compares is how strong which waves are where.
With psi a Morlet wavelet, turned to ORIENTATIONS directions and stretched to OCTAVES lengths (3 to 21 pixels),

    strength = log(GREY + mean |x * psi|)

over the neighbourhood of a place, and log(GREY + mean) of each colour: the scattering transform to its first order,
with its logarithm (Bruna & Mallat 2013). All are in nats: 0.1 is a tenth more. Nothing in it is learnt.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from components.features.places import at_places

OCTAVES = 4
ORIENTATIONS = 6
FREQUENCY = 3 * math.pi / 4  # radians per pixel, of the shortest wave
SIGMA = 0.8  # pixels: the width of its envelope
RADIUS = 3  # pixels: the envelope has fallen to a thousandth there
GREY = 1 / 255  # what is weaker than one grey value is noise
# Of a wave of four pixels half, of shorter ones next to nothing. An even number of taps: a pixel of half the size lies
# between two, and an odd number would move the picture by half a pixel each time.
HALVING = (-4 / 64, 9 / 64, 27 / 64, 27 / 64, 9 / 64, -4 / 64)


@cache
def wavelets() -> Tensor:
    """(2 ORIENTATIONS, 1, 7, 7): real parts, then imaginary parts; mean 0, so that plain light has no strength."""
    rows, columns = torch.meshgrid(*(torch.arange(-RADIUS, RADIUS + 1.0),) * 2, indexing="ij")
    envelope = torch.exp(-(rows**2 + columns**2) / (2 * SIGMA**2)) / (2 * math.pi * SIGMA**2)
    angles = torch.arange(ORIENTATIONS) * math.pi / ORIENTATIONS
    phase = FREQUENCY * (angles.cos()[:, None, None] * columns + angles.sin()[:, None, None] * rows)
    real = envelope * phase.cos()
    real = real - envelope * (real.sum((1, 2), keepdim=True) / envelope.sum())
    return torch.cat([real, envelope * phase.sin()])[:, None]


def halved(x: Tensor) -> Tensor:
    """A picture (B, 1, S, S) at half its size, without the waves that this cannot show."""
    row = x.new_tensor(HALVING)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), (row[:, None] * row)[None, None], stride=2)


def strengths(image: Tensor, side: int) -> Tensor:
    """Images (B, C, S, S) in [0, 1] to float32 (B, F, side, side), F = OCTAVES * ORIENTATIONS + C: waves from short to
    long, then the colours. Small images have fewer octaves."""
    grey = image.mean(1, keepdim=True)
    filters = wavelets().to(grey.device)
    found = []
    for octave in range(OCTAVES):
        if octave:
            grey = halved(grey)
        if grey.shape[-1] <= 2 * RADIUS:
            break
        waves = F.conv2d(F.pad(grey, (RADIUS,) * 4, mode="reflect"), filters)
        real, imaginary = waves.split(ORIENTATIONS, 1)
        found.append(at_places(torch.hypot(real, imaginary), side))
    return (torch.cat([*found, at_places(image, side)], 1) + GREY).log()
