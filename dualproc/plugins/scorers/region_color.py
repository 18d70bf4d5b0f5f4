"""The region-colour scorer: the distance of the colour of sky, ground or a box to a named colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from dualproc.errors import PluginError
from dualproc.kit.canvas import Box
from dualproc.kit.colors import COLOR_HINT, distances, dominant_colors, lab_and_ink, require_color, shades
from dualproc.types import Prompt, ScoreContext

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor
    from typing_extensions import Self

REGIONS: dict[str, tuple[float, float, float, float]] = {"sky": (0.0, 0.0, 1.0, 0.1), "ground": (0.0, 0.9, 1.0, 1.0)}
"""The boxes that are measured as sky and as ground, independent of the horizon."""
Region = Annotated[
    Literal["sky", "ground"] | Box,
    Field(description="sky, ground, or a box [left, top, right, bottom], as fractions of the image."),
]
"""The parameter type of a region of an image."""


def region_colors(images: Tensor, region: Literal["sky", "ground"] | Box) -> list[npt.NDArray[np.float64] | None]:
    """The most frequent colour [3] of a region in each of `images`, in CIELAB; None if it has no dominant colour."""
    left, top, right, bottom = REGIONS[region] if isinstance(region, str) else region
    pixels, ink = lab_and_ink(images)
    rows, columns = _span(top, bottom, pixels.shape[1]), _span(left, right, pixels.shape[2])
    colours = []
    for image, outline in zip(pixels[:, rows, columns], ink[:, rows, columns], strict=True):
        frequent, _ = dominant_colors(image[~outline])
        colours.append(frequent[0] if len(frequent) else None)
    return colours


class RegionColor:
    """Distance (CIEDE2000) from the colour of the sky, the ground or a box to a named colour; without a network.

    The colour of a region is its most frequent one, so outlines and a drawing that covers less than the background do
    not change it. If the drawing fills most of the region, its colour is measured. Sky and ground are the top and
    bottom tenth of the image. A name stands for several shades, of which the nearest counts.

    On new rendered scenes of 64 to 256 pixels, the measured colour is 0.01 from the true one
    (`python -m tools.tiny_world.accuracy_color`).
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "CIEDE2000"
    better: ClassVar[Literal["higher", "lower", "target"]] = "lower"

    class Params(BaseModel, extra="forbid", frozen=True):
        """The region, its target colour, and which values are on target."""

        region: Region
        color: Annotated[str, AfterValidator(require_color)] | None = Field(
            None,
            description="Target colour: snow, sand, grass, water, blue, pink, yellow, green, purple, orange, white or"
            " gray (several shades each), another CSS colour name, or a hex value.",
        )
        field: str | None = Field(
            None, description="Instead of `color`: the prompt field that names the target colour of each image."
        )
        within: float = Field(12.0, gt=0, description="Largest distance (CIEDE2000) that is on target.")

        @model_validator(mode="after")
        def _one_colour(self) -> Self:
            if (self.color is None) == (self.field is None):
                raise ValueError("set either `color`, or `field` (the prompt field that names the colour)")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params
        self.accepted = (0.0, params.within)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] distances of `images` [B, 3, H, W] in [0, 1]; nan where the region has no dominant colour.

        Raises PluginError if a prompt lacks the field `field`, or the field is not a colour.
        """
        wanted = [self._shades(context.prompts[index] if self.params.field else None) for index in range(len(images))]
        pairs = zip(region_colors(images, self.params.region), wanted, strict=True)
        return images.new_tensor([math.nan if one is None else distances(one[None], names)[0] for one, names in pairs])

    def _shades(self, prompt: Prompt | None) -> Sequence[str]:
        if prompt is None or self.params.field is None:
            return shades(self.params.color or "")
        if self.params.field not in prompt.fields:
            raise PluginError(
                f"region_color: the prompt {prompt.text!r} has no field `{self.params.field}`",
                hint=f"its fields are {', '.join(prompt.fields)}; set `field` to the one that names the colour",
            )
        name = prompt.fields[self.params.field]
        try:
            return shades(name)
        except ValueError:
            message = f"region_color: unknown colour {name!r} in the field `{self.params.field}` of {prompt.text!r}"
            raise PluginError(message, hint=COLOR_HINT) from None


def _span(start: float, end: float, extent: int) -> slice:
    """The rows or columns from `start` to `end` (fractions of `extent`), at least one."""
    first = min(round(start * extent), extent - 1)
    return slice(first, max(first + 1, round(end * extent)))
