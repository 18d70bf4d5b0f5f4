"""Plugins that fail in the middle of a fit: whose exception it was, said in one message."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dualproc import registry
from dualproc.errors import DualprocError, RunError
from dualproc.run import RunFolder
from dualproc.run.folder import TRACEBACK
from dualproc.spec import PluginRef

from .ensemble import Ensemble

if TYPE_CHECKING:
    from .loop import Engine

_LENGTH = 400
"""Of an exception's text, no more is shown: some libraries raise pages."""


@contextmanager
def explained(engine: Engine, run: RunFolder, doing: Callable[[], str], remedy: Callable[[], str]) -> Iterator[None]:
    """Turn any exception but a DualprocError into one that names the plugin, what it raised and when (`doing`).

    `remedy` says how to go on once the plugin is mended. The traceback goes into the run folder.
    """
    try:
        yield
    except DualprocError:
        raise
    except Exception as error:  # a stranger's plugin may raise anything
        owner, cause = _owner(engine, error), " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        with suppress(RunError):  # on a full disk, say: the message matters more
            run.write(TRACEBACK, "".join(traceback.format_exception(error)))
        memory = "too little memory (`dp plan` says what takes less); " if _is_of_memory(error) else ""
        raise DualprocError(
            f"{f'{owner} raised ' if owner else ''}{cause[:_LENGTH]}, {doing()}",
            hint=f"{memory}{remedy()} (traceback: {run.path / TRACEBACK})",
        ) from error


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__


def _owner(engine: Engine, error: Exception) -> registry.Entry | None:
    """The plugin in whose code an exception was raised: the innermost one whose method is in the traceback."""
    named = {id(plugin): (kind, ref.type) for kind, ref, plugin in _plugins(engine)}
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        itself = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))
        if id(itself) in named:
            return registry.find(*named[id(itself)])
    return None


def _plugins(engine: Engine) -> Iterator[tuple[str, PluginRef, Any]]:
    """Every live plugin: its kind, what the spec says of it, itself."""
    spec, looking = engine.spec, engine.instruments
    yield "generators", spec.generator, engine.generator
    yield "rewards", spec.reward, engine.reward
    for refs, judge in ((spec.judges, looking.judge), (spec.referees, looking.referee)):
        members = judge.judges if isinstance(judge, Ensemble) else [judge]
        yield from (("judges", ref, member) for (_, ref), member in zip(refs, members, strict=False))
    layers = spec.visual_prompt.layers if spec.visual_prompt else ()
    for kind, named, plugins in (
        ("anchors", [ref for ref in spec.anchors if ref.weight > 0], [anchor for _, anchor in engine.anchors]),
        ("visual_prompts", layers, looking.layers),
        ("scorers", spec.scorers, [scorer for _, scorer in looking.scorers]),
    ):
        yield from ((kind, ref, plugin) for ref, plugin in zip(named, plugins, strict=True))
