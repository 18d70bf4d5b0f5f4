# ruff: noqa: ARG001
"""Classes and presets with one mistake each."""

from pydantic import BaseModel, field_validator

from dualproc.protocols import Preset


class _Reward:
    api_version = 1

    class Params(BaseModel, extra="forbid"):
        pass

    def __init__(self, params):
        self.params = params

    def __call__(self, answers, wanted):
        return answers.log_likelihoods.sum(dim=(1, 2))


class TooNew(_Reward):
    api_version = 2


class TooOld(_Reward):
    api_version = 0


class NoVersion(_Reward):
    api_version = None


class NoParams(_Reward):
    Params = None


class Lenient(_Reward):
    class Params(BaseModel):
        pass


class NoCall:
    api_version = 1
    Params = _Reward.Params


class HalfDoneScorer:
    api_version = 1
    Params = _Reward.Params
    unit: str
    better = "higher"


class AScorer:
    api_version = 1
    Params = _Reward.Params
    unit = "points"
    better = "higher"

    def score(self, images, context):
        return images.mean(dim=(1, 2, 3))


class Undefined(_Reward):
    class Params(BaseModel, extra="forbid"):
        scale: "Nowhere"  # noqa: F821


class Stumbles(_Reward):
    class Params(BaseModel, extra="forbid"):
        scale: str = "linear"

        @field_validator("scale")
        @classmethod
        def _known(cls, scale):
            return {"linear": scale}[scale]


def not_a_class(answers, wanted):
    return answers


not_a_class.api_version = 1

NEW_PRESET = Preset(of="constant", summary="Written for a later version of dualproc.", api_version=2)
ODD_PRESET = Preset(of=None, summary="Names no plugin.")
