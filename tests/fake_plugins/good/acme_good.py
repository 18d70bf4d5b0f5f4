"""Plugins of a third-party distribution, and presets of them."""

from __future__ import annotations

from pydantic import BaseModel, Field

from dualproc.protocols import Preset


class Constant:
    """Always the same reward.

    A second paragraph.
    """

    api_version = 1

    class Params(BaseModel, extra="forbid"):
        value: float = Field(1.0, ge=0, description="the reward")
        unit: str = Field("points", description="what it counts")

    def __init__(self, params: Params) -> None:
        self.params = params

    def __call__(self, answers, wanted):
        return answers.log_likelihoods.new_full((len(answers.log_likelihoods),), self.params.value)


class Moody(Constant):
    """A reward whose constructor raises OSError."""

    def __init__(self, params: Constant.Params) -> None:
        raise OSError("no weights on this planet")


class Brightness:
    """Mean brightness of an image."""

    api_version = 1
    unit = "share of white"
    better = "higher"

    class Params(BaseModel, extra="forbid"):
        pass

    def __init__(self, params: Params) -> None:
        self.params = params

    def score(self, images, context):
        return images.mean(dim=(1, 2, 3))


class Dot:
    """A layer with a required parameter."""

    api_version = 1

    class Params(BaseModel, extra="forbid"):
        at: tuple[float, float] = Field(description="where")

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas):
        canvas.putpixel((0, 0), (255, 0, 0, 255))


class _Empty:
    api_version = 1

    class Params(BaseModel, extra="forbid"):
        strictness: int = Field(3, description="how strict")

    def __init__(self, params: Params) -> None:
        self.params = params

    def _unused(self, *args, **kwargs):
        raise NotImplementedError


class Painter(_Empty):
    """A generator whose methods are not used."""

    prepare = sample = denoise = save_lora = recipe = pipeline = _Empty._unused


class Oracle(_Empty):
    """A judge whose methods are not used."""

    answer_log_likelihoods = generate = _Empty._unused


class Leash(_Empty):
    """An anchor whose methods are not used."""

    penalty = _Empty._unused


HALF = Preset(of="constant", summary="Half a reward.", params={"value": 0.5})
HALF_AS_TEXT = Preset(of="half", summary="Half a reward, in marks.", params={"unit": "marks"})
QUARTER = Preset(of="half_as_text", summary="A quarter of a reward.", params={"value": 0.25})
MIDDLE = Preset(of="dot", summary="A dot in the middle.", params={"at": [0.5, 0.5]})
LOST = Preset(of="nowhere", summary="A preset of a plugin that does not exist.")
CIRCLE = Preset(of="circle_back", summary="A preset that builds on itself.")
CIRCLE_BACK = Preset(of="circle", summary="A preset that builds on itself.")
OUTDATED = Preset(of="constant", summary="Fills in a parameter that no longer exists.", params={"worth": 2})
