"""Plugins that fail in the middle of a fit: whose exception it was, said in one message."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dualproc import registry
from dualproc.errors import DualprocError, RunError
from dualproc.protocols import KINDS
from dualproc.run import RunFolder
from dualproc.run.folder import TRACEBACK
from dualproc.spec import PluginRef

from .ensemble import Ensemble

if TYPE_CHECKING:
    from .loop import Engine

_LESS_MEMORY = "too little memory (`dp plan` says what takes less)"
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
        with suppress(RunError):  # on a full disk, say: the message matters more
            run.write(TRACEBACK, "".join(traceback.format_exception(error)))
        memory = f"{_LESS_MEMORY}; " if _is_of_memory(error) else ""
        raise DualprocError(
            f"{_what_was_raised(_owner(engine, error), error)}, {doing()}",
            hint=f"{memory}{remedy()} (traceback: {run.path / TRACEBACK})",
        ) from error


def of_a_plugin(error: Exception) -> DualprocError | None:
    """An exception outside a fit as one message, its traceback in a temporary file.

    None if it is neither a plugin's nor one of memory: then it is a mistake of dualproc, and its traceback is wanted.
    """
    classes = {entry.target: entry for kind in KINDS for entry in registry.discover(kind).entries}
    owner = next((found for one in _selves(error) if (found := classes.get(registry.target_of(type(one))))), None)
    if owner is None and not _is_of_memory(error):
        return None
    with tempfile.NamedTemporaryFile("w", prefix="dp-", suffix=f"-{TRACEBACK}", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    remedy = _LESS_MEMORY if _is_of_memory(error) else "the plugin's author can mend it"
    return DualprocError(_what_was_raised(owner, error), hint=f"{remedy} (traceback: {file.name})")


def _what_was_raised(owner: registry.Entry | None, error: Exception) -> str:
    cause = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return f"{f'{owner} raised ' if owner else ''}{cause[:_LENGTH]}"


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__


def _owner(engine: Engine, error: Exception) -> registry.Entry | None:
    """The plugin in whose code an exception was raised: the innermost one whose method is in the traceback."""
    named = {id(plugin): (kind, ref.type) for kind, ref, plugin in _plugins(engine)}
    return next((registry.find(*named[id(one)]) for one in _selves(error) if id(one) in named), None)


def _selves(error: Exception) -> Iterator[Any]:
    """The first argument of every function in the traceback, innermost first: of a method, its object."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        yield frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))


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
