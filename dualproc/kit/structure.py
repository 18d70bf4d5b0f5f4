"""How similar two images are: in layout, by edge maps that hardly depend on colour; and in colour."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 64
"""Higher images are downscaled to this many rows: texture is not structure."""
FAINT = 0.1
"""An edge of this contrast counts half as much as one from black to white, so that colours hardly matter."""
BLUR = 0.03
"""Standard deviation of the blur, as a share of the height: edges match if they are about this near."""
FEATURELESS = 1e-3
"""Below this standard deviation of its edge map, an image has no structure."""


def downscaled(images: Tensor, rows: int) -> Tensor:
    """Images [B, C, H, W] at `rows` rows if they are higher, by area averaging; the aspect ratio is kept."""
    import torch.nn.functional as F

    height, width = images.shape[-2:]
    if height <= rows:
        return images
    return F.interpolate(images, size=(rows, max(1, round(width * rows / height))), mode="area")


def blurred(images: Tensor, share: float) -> Tensor:
    """Images [B, C, H, W] after a Gaussian blur whose standard deviation is a share of the height; 0: unchanged."""
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = share * images.shape[-2]
    reach = min(math.ceil(3 * sigma), *(extent - 1 for extent in images.shape[-2:]))  # the padding mirrors
    return gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2) if sigma and reach else images


def structure(images: Tensor) -> Tensor:
    """[B, N]: one unit vector per image [B, 3, H, W] in [0, 1]; the dot product of two is how alike the layouts are.

    The dot product is the correlation, over the pixels, of edge strength: with g the gradient magnitude over all
    channels, g / (g + FAINT), blurred. 1 for the same image, about 0 for unrelated ones. Images without any edge are
    like one another, and unlike all others.

    On rendered cartoon scenes (`python -m tools.tiny_world.accuracy_color`) it is 1.00 after a change of the
    colours of sky and ground, 0.96 between thin outlines and outlines 2.7 times as thick, 0.37 between two seeds of
    one prompt, which both draw a large subject near the middle (0.38 with the same horizon), and 0.27 between two
    scenes.
    """
    import torch
    import torch.nn.functional as F

    images = downscaled(images, ROWS)
    dx = F.pad(images, (0, 1, 0, 0), mode="replicate").diff(dim=-1)
    dy = F.pad(images, (0, 0, 0, 1), mode="replicate").diff(dim=-2)
    contrast = ((dx.square() + dy.square()).sum(1, keepdim=True) + 1e-12).sqrt()  # a root has no gradient at 0
    edges = contrast / (contrast + FAINT)
    flat = blurred(edges, BLUR).flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    floor = torch.full_like(flat[:, :1], FEATURELESS * flat.shape[1] ** 0.5)
    return F.normalize(torch.cat([flat, floor], dim=1), dim=1)


def color_map(images: Tensor) -> Tensor:
    """[B, N]: one vector per image [B, 3, H, W] in [0, 1]; the distance of two is how different the colours are.

    The distance is the root mean square, over the pixels of the blurred images, of the distance in CIELAB.
    """
    import torch
    from skimage.color import rgb2lab

    soft = blurred(downscaled(images.detach().float().cpu().clamp(0, 1), ROWS), BLUR)
    lab = torch.from_numpy(rgb2lab(soft.permute(0, 2, 3, 1).double().numpy()))
    found: Tensor = lab.flatten(1) / (lab.shape[1] * lab.shape[2]) ** 0.5
    return found
