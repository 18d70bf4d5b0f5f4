"""The depth scorers: which of two points is nearer, and where the ground meets the sky, by a depth model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dualproc.kit.canvas import Place
from dualproc.kit.pretrained import Pretrained, PretrainedParams
from dualproc.types import ScoreContext

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Array = npt.NDArray[np.float64]

MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
FLAT = 0.05
"""An image is flat if its range of inverse depths is below this share of the largest one."""
GROUND = 0.2
"""The share of a row's pixels that may be farther than the ground in this row. Objects on the ground are nearer."""
SKY = 0.1
"""The sky's inverse depth is at most this share of that of the nearest ground."""
STRAIGHT = 0.9
"""The smallest share of the variance between rows that a level ground explains."""
EDGE = 0.05
"""A horizon is at least this share of the height away from the upper and the lower edge."""


class DepthParams(PretrainedParams):
    """Which depth model, and how it computes."""

    model: str = Field(MODEL, description="Hub id of a Depth Anything model, or a folder written by `save_pretrained`.")


class Depth:
    """How much nearer to the camera one point is than another, by a pretrained depth model (Depth Anything V2).

    The inverse depth at a point is the median within `radius`. The difference of the two is a share of the image's own
    range of inverse depths (its 2nd to 98th percentile), because the model knows depth only up to scale and shift. An
    image has no value if it is flat. The points are fixed: the value is right only if the objects stand at the points,
    which the scorer `detect` can check. Not yet measured with the pretrained weights.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "of the depth range"
    better: ClassVar[Literal["higher", "lower", "target"]] = "higher"

    class Params(DepthParams):
        """The two points, and which values are on target."""

        a: Place = Field(description="Point A [x, y], as fractions of the image from the top left.")
        b: Place = Field(description="Point B [x, y], as fractions of the image from the top left.")
        nearer: Literal["a", "b"] | None = Field(
            None, description="The point that should be nearer; no target range if unset."
        )
        margin: float = Field(
            0.05, ge=0, le=1, description="Smallest difference that is on target, as a share of the image's range."
        )
        radius: float = Field(
            0.05, gt=0, le=0.5, description="Radius around a point that counts, as a fraction of the image height."
        )

    def __init__(self, params: Params) -> None:
        self.params = params
        self.accepted = None if params.nearer is None else (params.margin, 1.0)
        self.net = _load("depth", params)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] differences of inverse depth in `images` [B, 3, H, W] in [0, 1], from -1 to 1; nan for flat images.

        Point `nearer` minus the other point; A minus B without `nearer`.
        """
        sign, aspect = (-1 if self.params.nearer == "b" else 1), images.shape[-1] / images.shape[-2]
        places = (self.params.a, self.params.b)
        values = []
        for near in _inverse_depths(self.net, images):
            low, high = near.flatten().quantile(near.new_tensor([0.02, 0.98])).tolist()
            at_a, at_b = (_median_at(near, place, self.params.radius, aspect) for place in places)
            flat = high - low <= FLAT * high
            values.append(math.nan if flat else sign * max(-1.0, min(1.0, (at_a - at_b) / (high - low))))
        return images.new_tensor(values)


class DepthHorizon:
    """Row of the horizon, as a fraction of the image height, by a pretrained depth model (Depth Anything V2).

    On level ground, inverse depth falls linearly with the row and reaches that of the sky at the horizon. Objects on
    the ground are nearer than the ground in the same row, so each row counts with a low percentile of its pixels. The
    horizon is where a constant (the sky) and a straight line (the ground) meet that together fit the rows best. An
    image has no value if they fit badly, if what is above the ground is not far away (a wall, a forest), or if the
    horizon is near an edge. It is wrong if the ground rises or falls. Not yet measured with the pretrained weights.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "of the height"
    better: ClassVar[Literal["higher", "lower", "target"]] = "target"

    class Params(DepthParams):
        """The target, and which values are on target."""

        target: float | None = Field(
            None, ge=0, le=1, description="Target row, as a fraction of the image height from the top."
        )
        tolerance: float = Field(
            0.05, gt=0, le=1, description="Largest distance to the target that is on target, a fraction of the height."
        )

    def __init__(self, params: Params) -> None:
        self.params = params
        target, tolerance = params.target, params.tolerance
        self.accepted = None if target is None else (target - tolerance, target + tolerance)
        self.net = _load("depth_horizon", params)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] rows of the horizon in `images` [B, 3, H, W] in [0, 1]; nan where depth shows no horizon."""
        return images.new_tensor([horizon_row(near.double().numpy()) for near in _inverse_depths(self.net, images)])


def _load(name: str, params: DepthParams) -> Pretrained:
    """Raises PluginError if the model is not a Depth Anything model: whether near is high depends on the family."""
    kind = "a Depth Anything model"
    net = Pretrained(
        params, what=f"the model of the scorer {name}", kind=kind,
        model="AutoModelForDepthEstimation", processor="AutoImageProcessor",
    )  # fmt: skip
    fits = net.model.config.model_type == "depth_anything"
    net.require(fits, scorer=name, kind=kind, hint=f"use {MODEL}, or another size of it")
    return net


def _inverse_depths(net: Pretrained, images: Tensor) -> Tensor:
    """[B, h, w] >= 0, larger is nearer; the model's own size. 0 is infinitely far, as in the model's training."""
    metric = net.model.config.depth_estimation_type == "metric"

    def values(rows: slice) -> Tensor:
        found: Tensor = net.model(**net.inputs(images[rows])).predicted_depth.float()
        return 1 / found.clamp_min(1e-3) if metric else found

    return net.measure(len(images), values)


def _median_at(near: Tensor, place: tuple[float, float], radius: float, aspect: float) -> float:
    """The median of a map [h, w] within `radius` (a fraction of the height) of a point [x, y] (fractions).

    `aspect` is the image's width divided by its height. Without any pixel that near, the nearest pixel counts.
    """
    import torch

    height, width = near.shape
    y = (torch.arange(height) + 0.5) / height - place[1]
    x = ((torch.arange(width) + 0.5) / width - place[0]) * aspect
    away = y[:, None].square() + x[None].square()
    return near[away <= away.min().clamp_min(radius**2)].median().item()


def horizon_row(near: Array) -> float:
    """The row of the horizon in a map [h, w] of inverse depths, as a fraction of the height; nan if there is none."""
    import numpy as np

    profile = np.quantile(near, GROUND, axis=1)
    rows = (np.arange(len(profile)) + 0.5) / len(profile)
    spread = profile.var()
    if not np.isfinite(spread) or spread <= 0:
        return math.nan
    best: tuple[float, float, float, float] = (math.inf, 0, 0, 0)
    for row in np.linspace(0, 1, 201):
        ground = (rows - row).clip(0)
        if not ground.any():
            break
        slope = np.cov(ground, profile, bias=True)[0, 1] / ground.var()
        sky = profile.mean() - slope * ground.mean()
        best = min(best, (float(((sky + slope * ground - profile) ** 2).mean()), float(row), float(slope), float(sky)))
    error, row, slope, sky = best
    far = slope > 0 and abs(sky) <= SKY * slope * (1 - row)
    return row if far and error <= (1 - STRAIGHT) * spread and EDGE <= row <= 1 - EDGE else math.nan
