"""The region-colour scorer: does the sky, the ground or a box have a certain colour?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dualproc.errors import PluginError
from dualproc.kit.canvas import Box
from dualproc.kit.colors import ADVICE, distances, dominant, lab_and_ink, shade_names, shades
from dualproc.types import Prompt, ScoreContext

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor
    from typing_extensions import Self

REGIONS: dict[str, tuple[float, float, float, float]] = {"sky": (0.0, 0.0, 1.0, 0.1), "ground": (0.0, 0.9, 1.0, 1.0)}
"""The parts of an image that are sky, or ground, wherever its horizon lies."""


class RegionColor:
    """Distance (CIEDE2000) of the colour of sky, ground or a box to a named colour, measured without a network.

    The region's colour is the most frequent one, so that neither a drawing that covers less of it nor outlines change
    it. Sky and ground are the uppermost and lowest tenth of the image. A name stands for several shades, of which the
    nearest counts. On fresh rendered scenes of 64 to 256 pixels the colour found is 0.01 from the true one
    (`python -m tools.tiny_world.accuracy_color`); where the drawing fills most of the region, its colour is found.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "CIEDE2000"
    better: ClassVar[Literal["higher", "lower", "target"]] = "lower"

    class Params(BaseModel):
        """Which region, which colour, and what counts as a hit."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        region: Literal["sky", "ground"] | Box = Field(
            description="sky, ground, or a box: left, top, right and bottom as shares of the image."
        )
        color: Annotated[str, AfterValidator(shade_names)] | None = Field(
            None,
            description="The wanted colour: snow, sand, grass, water, blue, pink, yellow, green, purple, orange, "
            "white, gray (some shades each), another name of CSS, or a hex value.",
        )
        field: str | None = Field(
            None, description="Instead of `color`: the field of the prompts that names each image's wanted colour."
        )
        within: float = Field(12.0, gt=0, description="An image this near (CIEDE2000) is on target.")

        @model_validator(mode="after")
        def _one_colour_and_a_box(self) -> Self:
            if (self.color is None) == (self.field is None):
                raise ValueError("give either color or field (the prompts' field that names it)")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params
        self.accepted = (0.0, params.within)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] distances of images [B, 3, H, W] in [0, 1]; nan where the region has no plain area.

        PluginError if a prompt lacks the field, or its field names no colour.
        """
        wanted = [self._shades(context.prompts[index] if self.params.field else None) for index in range(len(images))]
        values = [
            distances(colour[None], names)[0] if colour is not None else float("nan")
            for colour, names in zip(self.found(images), wanted, strict=True)
        ]
        return images.new_tensor(values)

    def found(self, images: Tensor) -> list[npt.NDArray[np.float64] | None]:
        """The region's colour in every image, in CIELAB; None where there is no plain area."""
        region = self.params.region
        left, top, right, bottom = REGIONS[region] if isinstance(region, str) else region
        pixels, ink = lab_and_ink(images)
        rows, columns = _span(top, bottom, pixels.shape[1]), _span(left, right, pixels.shape[2])
        colours = []
        for image, outline in zip(pixels[:, rows, columns], ink[:, rows, columns], strict=True):
            frequent, _ = dominant(image[~outline])
            colours.append(frequent[0] if len(frequent) else None)
        return colours

    def _shades(self, prompt: Prompt | None) -> Sequence[str]:
        if prompt is None or self.params.field is None:
            return shades(self.params.color or "")
        if self.params.field not in prompt.fields:
            raise PluginError(
                f"region_color: the prompt {prompt.text!r} has no field `{self.params.field}`",
                hint=f"its fields are {', '.join(prompt.fields)}; `field` names the one with the wanted colour",
            )
        try:
            return shades(prompt.fields[self.params.field])
        except ValueError:
            name = prompt.fields[self.params.field]
            message = f"region_color: {name!r}, the `{self.params.field}` of {prompt.text!r}, is no colour"
            raise PluginError(message, hint=ADVICE) from None


def _span(start: float, end: float, extent: int) -> slice:
    """At least one of `extent` rows or columns."""
    first = min(round(start * extent), extent - 1)
    return slice(first, max(first + 1, round(end * extent)))
