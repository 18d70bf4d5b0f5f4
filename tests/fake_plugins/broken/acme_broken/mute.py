"""Raises an exception that neither is an Exception nor has a text."""


class Mute(BaseException):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError


raise Mute
