"""A reward with a name that another distribution also uses."""

from pydantic import BaseModel

from dualproc.protocols import Preset


class Twin:
    """The twin of distribution twin-a."""

    api_version = 1

    class Params(BaseModel, extra="forbid"):
        pass

    def __init__(self, params):
        self.params = params

    def __call__(self, answers, wanted):
        return answers.log_likelihoods.sum(dim=(1, 2))


LIKE_TWIN = Preset(of="twin", summary="The twin of its own distribution.")
