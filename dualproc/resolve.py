"""Turn a spec into live plugins: look up every name in the registry, and let each plugin check its parameters."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from dualproc.spec.document import Node, from_data, problem_at, split
from dualproc.spec.messages import for_report
from dualproc.spec.mistakes import MAX_PROBLEMS

from . import registry
from .errors import DualprocError, PluginError, Problem, SpecError
from .protocols import KINDS
from .registry import LoadedPlugin
from .spec import LoadedSpec, PluginPlace, PluginRef, TaskSpec, json_schema, problems_from, read_spec

Builder = Callable[[str, PluginRef], Any]
"""Builds a live plugin from its kind and its reference in a spec, as `build` does."""

TRUST = "trust_remote_code"
"""The parameter of diffusers and transformers that runs code from a model's files; no spec may set it."""


def load_spec(path: str | os.PathLike[str], *, overrides: Sequence[str] = (), variant: str | None = None) -> TaskSpec:
    """Read and check a spec file, including the parameters of every plugin that it names.

    Raises:
        SpecError: the spec has mistakes (it lists each with its place), or it has variants and none is chosen.
    """
    return read_checked(path, overrides=overrides, variant=variant).require()


def read_checked(
    path: str | os.PathLike[str], *, overrides: Sequence[str] = (), variant: str | None = None
) -> LoadedSpec:
    """Like `load_spec`, but also returns the origin of every value, and without a chosen variant checks all of them.

    Raises:
        SpecError: the spec has mistakes; it lists each with its place.
    """
    loaded = read_spec(path, overrides=overrides, variant=variant)
    load = functools.cache(registry.load)
    problems = list(loaded.problems)
    for one in loaded.each():
        if len(problems) > MAX_PROBLEMS:
            break
        problems += _plugin_problems(one.plugins(), one, load)
    _raise_problems(problems)
    return loaded


def check_plugins(spec: TaskSpec) -> None:
    """Check every plugin that a spec names and its parameters, without building any of them.

    Raises:
        SpecError: there are mistakes; it lists each with its path.
    """
    _raise_problems(_plugin_problems(spec.plugins(), _PathLocator(from_data(spec)), functools.cache(registry.load)))


def build(kind: str, ref: PluginRef) -> Any:
    """Build a live plugin of a kind.

    Raises:
        PluginError: the plugin cannot be found, loaded or built.
        SpecError: its parameters are not valid.
    """
    plugin = registry.load(kind, ref.type)
    place, locator = PluginPlace(kind, kind, ref.type, ref.params), _PathLocator(from_data({kind: ref}))
    _raise_problems(_remote_code_problems(place, locator))
    try:
        params = plugin.params(ref.params)
    except ValidationError as error:
        raise SpecError(_params_problems(error, plugin, place, locator)) from error
    try:
        return plugin.cls(params)
    except DualprocError:
        raise
    except (Exception, SystemExit) as error:  # a third-party constructor may raise anything
        raise registry.failure(plugin.entry, error) from error


def installed_schema() -> tuple[dict[str, Any], list[PluginError]]:
    """The JSON schema of a spec file with the parameters of all installed plugins, and the errors of broken plugins.

    If several distributions have a plugin of the same name, the schema has each as `distribution/name`.
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
    """Converts mistakes to problems with the place of the value in the spec."""

    def problem(self, path: str, message: str, *, hint: str | None = None) -> Problem: ...

    def problems_from(self, error: ValidationError, model: type[BaseModel], path: str) -> list[Problem]: ...


@dataclass(frozen=True)
class _PathLocator:
    """The locator of a spec that was not read from a file: its problems have only paths."""

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
        if forbidden := _remote_code_problems(place, locator):
            problems += forbidden
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
    """The problems of a plugin's parameters; those filled in by a preset are reported as the preset's mistake."""
    filled_in = set(plugin.preset) - set(place.params)
    faults = [details for details in error.errors() if details["loc"] and details["loc"][0] in filled_in]
    if not faults:
        return locator.problems_from(error, plugin.cls.Params, place.path)
    causes = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
    message = f"{plugin.entry} is a preset with invalid parameters: {causes}"
    return [
        locator.problem(f"{place.path}.type", message, hint=f"run `pip install --upgrade {plugin.entry.distribution}`")
    ]


def _remote_code_problems(place: PluginPlace, locator: _Locator) -> list[Problem]:
    """One problem for each key `trust_remote_code` in a plugin's parameters, at any depth."""
    message = f"`{TRUST}` cannot be set: dualproc never runs code that comes with a model"
    hint = "use a model whose classes are part of the installed diffusers or transformers, see SECURITY.md"
    return [locator.problem(path, message, hint=hint) for path in _keys_named(TRUST, place.params, place.path)]


def _keys_named(name: str, value: Any, path: str) -> Iterator[str]:
    """The dotted paths of all keys with a name, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == name:
                yield f"{path}.{key}"
            yield from _keys_named(name, item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _keys_named(name, item, f"{path}.{index}")


def _raise_problems(problems: Iterable[Problem]) -> None:
    """Raise a SpecError if there are any problems."""
    if found := for_report(problems):
        raise SpecError(found)
