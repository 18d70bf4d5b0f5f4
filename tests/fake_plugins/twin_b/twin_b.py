"""A reward with a name that another distribution also uses."""

from pydantic import BaseModel


class Twin:
    """The twin of distribution twin-b."""

    api_version = 1

    class Params(BaseModel, extra="forbid"):
        pass

    def __init__(self, params):
        self.params = params

    def __call__(self, answers, wanted):
        return answers.log_likelihoods.sum(dim=(1, 2))
