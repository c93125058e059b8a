"""Ways to bend valid bytes that break readers most often."""

from __future__ import annotations

import random

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def bent(data: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, cut, repeated, spliced, or overwritten by an extreme number of one, two or four bytes."""
    content = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        if not content:
            break
        at = draw.randrange(len(content))
        match draw.randrange(7):
            case 0:
                content[at] ^= 1 << draw.randrange(8)
            case 1:
                content[at] = draw.randrange(256)
            case 2:
                del content[at:]
            case 3:
                del content[at : at + draw.randrange(1, 64)]
            case 4:
                content[at:at] = content[at : at + draw.randrange(1, 64)] * draw.choice([1, 2, 100])
            case 5:
                width = draw.choice([1, 2, 4])
                value = draw.choice(EXTREMES) % (1 << 8 * width)
                content[at : at + width] = value.to_bytes(width, draw.choice(["big", "little"]))
            case _:
                other = draw.randrange(len(content))
                content[at : at + 16] = content[other : other + 16]
    return bytes(content)
