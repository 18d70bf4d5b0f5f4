"""From a spec to live plugins: every name is looked up in the registry, every parameter checked by its plugin."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from dualproc.spec.document import Node, from_data, problem_at, split
from dualproc.spec.messages import tidy
from dualproc.spec.mistakes import MAX_PROBLEMS

from . import registry
from .errors import DualprocError, PluginError, Problem, SpecError
from .protocols import KINDS
from .registry import LoadedPlugin
from .spec import LoadedSpec, PluginPlace, PluginRef, TaskSpec, json_schema, problems_from, read_spec

Builder = Callable[[str, PluginRef], Any]
"""Makes a live plugin of a kind from what a spec says of it, as `build` does."""

TRUST = "trust_remote_code"
"""What diffusers and transformers call running the code that a model brings along."""


def load_spec(path: str | os.PathLike[str], *, overrides: Sequence[str] = (), variant: str | None = None) -> TaskSpec:
    """Read a spec file, checked together with every plugin that it names.

    Raises:
        SpecError: with every mistake and where it stands; or the spec has variants and none is chosen.
    """
    return read_checked(path, overrides=overrides, variant=variant).require()


def read_checked(
    path: str | os.PathLike[str], *, overrides: Sequence[str] = (), variant: str | None = None
) -> LoadedSpec:
    """As `load_spec`, with the origin of every value; where no variant is chosen, every variant is checked.

    Raises:
        SpecError: with every mistake and where it stands.
    """
    loaded = read_spec(path, overrides=overrides, variant=variant)
    load = functools.cache(registry.load)
    problems = list(loaded.problems)
    for one in loaded.each():
        if len(problems) > MAX_PROBLEMS:
            break
        problems += _plugin_problems(one.plugins(), one, load)
    _refuse(problems)
    return loaded


def check_plugins(spec: TaskSpec) -> None:
    """Check every plugin that a spec names and its parameters, without building any.

    Raises:
        SpecError: with every mistake and its path.
    """
    _refuse(_plugin_problems(spec.plugins(), _InPython(from_data(spec)), functools.cache(registry.load)))


def build(kind: str, ref: PluginRef) -> Any:
    """A live plugin.

    Raises:
        PluginError: it cannot be found, loaded or built.
        SpecError: its parameters are not valid.
    """
    plugin = registry.load(kind, ref.type)
    place, locator = PluginPlace(kind, kind, ref.type, ref.params), _InPython(from_data({kind: ref}))
    _refuse(_trusting(place, locator))
    try:
        params = plugin.params(ref.params)
    except ValidationError as error:
        raise SpecError(_params_problems(error, plugin, place, locator)) from error
    try:
        return plugin.cls(params)
    except DualprocError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's constructor may do anything
        raise registry.failure(plugin.entry, error) from error


def installed_schema() -> tuple[dict[str, Any], list[PluginError]]:
    """The JSON schema of a spec file with the parameters of every installed plugin, and the plugins left out as broken.

    A name that several distributions have stands in it as `distribution/name`.
    """
    params: dict[str, dict[str, Any]] = {}
    broken = []
    for kind in KINDS:
        entries = registry.entries(kind)
        names = [entry.name for entry in entries]
        params[kind] = {}
        for entry in entries:
            name = entry.name if names.count(entry.name) == 1 else f"{entry.distribution}/{entry.name}"
            try:
                params[kind][name] = registry.load(kind, name).schema()
            except PluginError as error:
                broken.append(error)
    return json_schema(params), broken


class _Locator(Protocol):
    """Knows where the values of a spec were written."""

    def problem(self, path: str, message: str, *, hint: str | None = None) -> Problem: ...

    def problems_from(self, error: ValidationError, model: type[BaseModel], path: str) -> list[Problem]: ...


@dataclass(frozen=True)
class _InPython:
    """The locator of a spec that was not read from a file: it knows the paths only."""

    document: Node

    def problem(self, path: str, message: str, *, hint: str | None = None) -> Problem:
        return problem_at(self.document, split(path), message, hint=hint)

    def problems_from(self, error: ValidationError, model: type[BaseModel], path: str) -> list[Problem]:
        return problems_from(error, model, self.document, path=split(path))


def _plugin_problems(
    places: Iterable[PluginPlace], locator: _Locator, load: Callable[[str, str], LoadedPlugin]
) -> list[Problem]:
    problems: list[Problem] = []
    for place in places:
        if len(problems) > MAX_PROBLEMS:
            break
        if trusting := _trusting(place, locator):
            problems += trusting
            continue
        try:
            plugin = load(place.kind, place.type)
            plugin.params(place.params)
        except PluginError as error:
            problems.append(locator.problem(f"{place.path}.type", error.message, hint=error.hint))
        except ValidationError as error:
            problems += _params_problems(error, plugin, place, locator)
    return problems


def _params_problems(
    error: ValidationError, plugin: LoadedPlugin, place: PluginPlace, locator: _Locator
) -> list[Problem]:
    """What is wrong with a plugin's parameters; those that its preset has wrong are not the spec's mistake."""
    filled_in = set(plugin.preset) - set(place.params)
    faults = [details for details in error.errors() if details["loc"] and details["loc"][0] in filled_in]
    if not faults:
        return locator.problems_from(error, plugin.cls.Params, place.path)
    causes = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
    message = f"{plugin.entry} is a preset with wrong parameters: {causes}"
    return [locator.problem(f"{place.path}.type", message, hint=f"pip install --upgrade {plugin.entry.distribution}")]


def _trusting(place: PluginPlace, locator: _Locator) -> list[Problem]:
    """Where a plugin's parameters say, at any depth, that code that comes with a model may be run."""
    message = f"`{TRUST}` cannot be set: dualproc never runs code that comes with a model"
    hint = "use a model whose classes the installed diffusers and transformers have themselves (SECURITY.md)"
    return [locator.problem(path, message, hint=hint) for path in _keys_named(TRUST, place.params, place.path)]


def _keys_named(name: str, value: Any, path: str) -> Iterator[str]:
    """The dotted paths of all keys of that name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == name:
                yield f"{path}.{key}"
            yield from _keys_named(name, item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _keys_named(name, item, f"{path}.{index}")


def _refuse(problems: Iterable[Problem]) -> None:
    """Raise all problems, if there are any."""
    if found := tidy(problems):
        raise SpecError(found)
