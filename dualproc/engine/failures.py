"""Plugins that fail in the middle of a fit: one message that names the plugin and says how to continue."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dualproc import registry
from dualproc.errors import LESS_MEMORY, DualprocError, RunError, is_out_of_memory
from dualproc.protocols import KINDS
from dualproc.run import RunFolder
from dualproc.run.files import keep_aside
from dualproc.run.folder import TRACEBACK
from dualproc.spec import PluginRef
from dualproc.wording import cause, printable

from .ensemble import Ensemble
from .loop import Loop
from .returned import WrongResult


@dataclass
class Stage:
    """What a fit is doing, for the message if it fails."""

    doing: str
    """Such as `in training step 7`."""
    remedy: str
    """How to continue once the plugin is fixed."""


@contextmanager
def explained(loop: Loop, run: RunFolder, doing: str, remedy: str) -> Iterator[Stage]:
    """Turn any exception but a DualprocError into one that names the plugin, what it raised, and at which stage.

    Update the Stage that it yields as the work proceeds. The traceback goes into the run folder.
    """
    stage = Stage(doing, remedy)
    try:
        yield stage
    except (DualprocError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a third-party plugin may raise anything, or try to end the process
        with suppress(RunError):  # on a full disk, for example: the message matters more
            run.write(TRACEBACK, _traceback(error))
        memory = f"{LESS_MEMORY}; " if is_out_of_memory(error) else ""
        raise DualprocError(
            f"{_what_was_raised(_owner(loop, error), error)}, {stage.doing}",
            hint=f"{memory}{stage.remedy} (traceback: {run.path / TRACEBACK})",
        ) from error


def plugin_failure(error: BaseException) -> DualprocError | None:
    """An exception outside a fit as one message, its traceback in a temporary file.

    None if neither a plugin raised it nor memory ran out: then it is a bug in dualproc, and its traceback is useful.
    """
    classes = {entry.target: entry for kind in KINDS for entry in registry.discover(kind).entries}
    owner = next((found for one in _selves(error) if (found := classes.get(registry.target_of(type(one))))), None)
    if owner is None and not is_out_of_memory(error):
        return None
    remedy = LESS_MEMORY if is_out_of_memory(error) else "report this to the plugin's author"
    return DualprocError(
        _what_was_raised(owner, error), hint=f"{remedy} (traceback: {keep_aside(_traceback(error), TRACEBACK)})"
    )


def _traceback(error: BaseException) -> str:
    return printable("".join(traceback.format_exception(error)))


def _what_was_raised(owner: registry.Entry | None, error: BaseException) -> str:
    if owner is not None and isinstance(error, WrongResult):
        return f"{owner} {error}"
    return f"{f'{owner} raised ' if owner else ''}{cause(error)}"


def _owner(loop: Loop, error: BaseException) -> registry.Entry | None:
    """The plugin that raised an exception: the innermost one with a method in the traceback."""
    known = {id(plugin): (kind, ref.type) for kind, ref, plugin in _plugins(loop)}
    return next((registry.find(*known[id(one)]) for one in _selves(error) if id(one) in known), None)


def _selves(error: BaseException) -> Iterator[Any]:
    """The first argument of every function in the traceback, innermost first; for a method, its object."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        yield frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))


def _plugins(loop: Loop) -> Iterator[tuple[str, PluginRef, Any]]:
    """Every live plugin: its kind, how the spec names it, the plugin itself."""
    spec, evaluators = loop.spec, loop.evaluators
    yield "generators", spec.generator, loop.generator
    for refs, judge in ((spec.judges, evaluators.judge), (spec.referees, evaluators.referee)):
        members = judge.judges if isinstance(judge, Ensemble) else [judge]
        yield from (("judges", ref, member) for (_, ref), member in zip(refs, members, strict=False))
    for one in filter(None, (loop, loop.latest)):
        for kind, plugins in (one.built | one.evaluators.built).items():
            yield from ((kind, ref, plugin) for ref, plugin in plugins)
