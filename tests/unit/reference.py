"""Slow, plain implementations that the fast ones are held against."""

import torch


@torch.no_grad()
def restore_naively(prior, codes, eta, neighbour_rule=True, every_position=False, coarse=None):
    """Eq. 5 read aloud: one full forward pass for each position, in raster order.

    Positions that the neighbour rule protects need no pass; `every_position` makes one all the same, as the
    published method does. Where `coarse` is True a code stands for a cell of 2 x 2 positions and is as likely as at
    the least likely of them; such a cell is protected by no neighbour but itself.
    """
    height, width = codes.shape[1:]
    first = prior(codes).softmax(1).gather(1, codes[:, None]).squeeze(1)
    if coarse is not None:
        raw = first.clone()
        for image, m, n in coarse.nonzero().tolist():
            top, left = m - m % 2, n - n % 2
            first[image, m, n] = raw[image, top : top + 2, left : left + 2].min()
    restored = codes.clone()
    for image in range(len(codes)):
        for m in range(height):
            for n in range(width):
                around = [(m, n + 1), (m + 1, n - 1), (m + 1, n), (m + 1, n + 1)]
                near = [first[image, i, j] for i, j in around if i < height and 0 <= j < width]
                if coarse is not None and coarse[image, m, n]:
                    near = [*near, first[image, m, n]]
                protected = neighbour_rule and near and not min(near) < eta
                if protected and not every_position:
                    continue
                p = prior(restored[image : image + 1]).softmax(1)[0, :, m, n]
                if not protected and p[codes[image, m, n]] < eta:
                    restored[image, m, n] = p.argmax()
    return restored
