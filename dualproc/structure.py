"""Where a picture has edges, whatever their colour: what says whether two pictures have the same layout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 64
"""Higher pictures are reduced to this many rows: texture is no structure."""
FAINT = 0.1
"""An edge of this contrast counts half as much as one from black to white, so that colours hardly matter."""
BLUR = 0.03
"""Standard deviation of the blur, as a share of the height: edges match if they are about this near."""
FEATURELESS = 1e-3
"""Standard deviation of the map of edges under which a picture has no structure."""


def blurred(images: Tensor, share: float) -> Tensor:
    """Images [B, C, H, W] after a Gaussian blur whose standard deviation is a share of the height; 0: unchanged."""
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = share * images.shape[-2]
    reach = min(math.ceil(3 * sigma), *(extent - 1 for extent in images.shape[-2:]))  # the padding mirrors
    return gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2) if sigma and reach else images


def structure(images: Tensor) -> Tensor:
    """[B, N]: a unit vector a picture [B, 3, H, W] in [0, 1]; the product of two is how alike their structures are.

    It is their correlation, over the places of the picture, of how much edge there is: the gradient's magnitude g over
    all channels as g / (g + FAINT), blurred. 1 for the same picture, about 0 for unrelated ones. Pictures without
    any edge are like one another, and like no others.

    On rendered cartoon scenes (`python -m tools.tiny_world.meters_color`) it is 1.00 after other colours were given to
    sky and ground, 0.96 between thin outlines and those 2.7 times thicker, 0.37 between two seeds of one prompt, which
    both draw a large subject near the middle (0.38 with the same horizon), and 0.27 between two scenes.
    """
    import torch
    import torch.nn.functional as F

    height, width = images.shape[-2:]
    if height > ROWS:
        images = F.interpolate(images, size=(ROWS, max(1, round(width * ROWS / height))), mode="area")
    dx = F.pad(images, (0, 1, 0, 0), mode="replicate").diff(dim=-1)
    dy = F.pad(images, (0, 0, 0, 1), mode="replicate").diff(dim=-2)
    contrast = (dx.square() + dy.square()).sum(1, keepdim=True).sqrt()
    edges = contrast / (contrast + FAINT)
    flat = blurred(edges, BLUR).flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    floor = torch.full_like(flat[:, :1], FEATURELESS * flat.shape[1] ** 0.5)
    return F.normalize(torch.cat([flat, floor], dim=1), dim=1)
