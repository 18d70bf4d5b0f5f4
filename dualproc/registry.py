"""Find and load installed plugins: the entry points of the groups `dualproc.<kind>`.

Listing imports no plugin. A plugin is imported when it is named, and then checked against the protocol of its kind.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import entrypoints
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from . import protocols
from .errors import LESS_MEMORY, PluginError, is_out_of_memory
from .protocols import API_VERSION, KINDS, Preset
from .wording import cause as described
from .wording import suggestion

PROTOCOLS: Mapping[str, type] = {
    "generators": protocols.Generator,
    "judges": protocols.Judge,
    "rewards": protocols.Reward,
    "visual_prompts": protocols.VisualPrompt,
    "anchors": protocols.Anchor,
    "scorers": protocols.Scorer,
}


@dataclass(frozen=True, order=True)
class Entry:
    """One installed plugin, described only by its metadata."""

    kind: str
    name: str
    distribution: str
    """Normalised name of the distribution, as pip accepts it."""
    version: str | None
    target: str
    """`module:object`, as declared by the distribution."""

    def __str__(self) -> str:
        origin = f"{self.distribution} {self.version or '(unknown version)'}"
        return f"{singular(self.kind)} '{self.name}' ({origin}, entry point {self.target})"


@dataclass(frozen=True)
class Discovery:
    """The plugins of one kind that the installed distributions declare."""

    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...] = ()
    """One message for each entry_points.txt that could not be read."""


@dataclass(frozen=True)
class LoadedPlugin:
    """A plugin class and, if it was named by a preset, the parameters that the preset fills in."""

    entry: Entry
    cls: type[Any]
    summary: str
    preset: Mapping[str, Any]
    gated: bool = False
    """Whether a preset says that its model is gated."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Published values of a spec's `train`, from the first preset of the chain that has any."""
    train_source: str = ""
    """Where they are published."""

    def params(self, given: Mapping[str, Any]) -> Any:
        """Build the plugin's `Params`; values in `given` override those of the preset.

        Raises pydantic.ValidationError if the parameters are not valid, and PluginError if the plugin's own validation
        code raised another error.
        """
        try:
            return validated(self.cls.Params, {**self.preset, **given})
        except (ValidationError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a third-party validator may raise anything
            raise failure(self.entry, error) from error

    def schema(self) -> dict[str, Any]:
        """The JSON schema of `Params`; values of the preset appear as defaults.

        Raises PluginError if they cannot be written as JSON.
        """
        schema: dict[str, Any] = self.cls.Params.model_json_schema()
        properties = schema.setdefault("properties", {}) if self.preset else {}
        for name, value in self.preset.items():
            properties[name] = {**properties.get(name, {}), "default": value}
        try:
            to_json(schema)
        except ValueError as error:
            raise failure(self.entry, error) from error
        required = [name for name in schema.pop("required", ()) if name not in self.preset]
        return {**schema, "required": required} if required else schema


def validated(params: type[BaseModel], given: Mapping[str, Any]) -> Any:
    """Validate parameters from a spec with a plugin's `Params`, in pydantic's strict mode.

    Types are not converted: `true` and `"5"` are not numbers, and `2.5` is not an integer. The values are passed as
    JSON, because only for JSON does strict mode accept a list for a tuple and a string for a path. Raises
    pydantic.ValidationError if the parameters are not valid. Validators of a plugin may raise other errors.
    """
    return params.model_validate_json(to_json(dict(given), inf_nan_mode="constants"), strict=True)


def target_of(plugin: type) -> str:
    """The entry-point notation of a class: `module:Class`."""
    return f"{plugin.__module__}:{plugin.__qualname__}"


def singular(kind: str) -> str:
    """The singular of a kind, for messages: `visual prompt` for `visual_prompts`."""
    return kind.replace("_", " ").removesuffix("s")


def require_kind(kind: str) -> None:
    """Raise PluginError if `kind` is not a kind of plugin."""
    if kind not in KINDS:
        raise PluginError(f"unknown kind of plugin: '{kind}'", hint=f"kinds: {', '.join(KINDS)}")


def discover(kind: str) -> Discovery:
    """Find every installed plugin of a kind, sorted by name, without importing any of them."""
    require_kind(kind)
    group = f"dualproc.{kind}"
    unreadable: list[str] = []
    try:
        # Not get_group_all: it warns about a line that it skips, and filters of warnings are for all threads at once.
        points = [
            entrypoints.EntryPoint.from_string(text, name, distro)
            for config, distro in entrypoints.iter_files_distros()
            if group in config
            for name, text in config[group].items()
        ]
        found = [(p.name, f"{p.module_name}:{p.object_name or ''}".rstrip(":"), p.distro) for p in points]
    except (entrypoints.BadEntryPoint, configparser.Error, UnicodeError, OSError):
        found = list(_read_each_file(group, unreadable))
    unique: dict[tuple[str, str], Entry] = {}
    for name, target, distro in found:
        entry = Entry(kind, name, _normalised(distro.name), distro.version or _version(distro.name), target)
        unique.setdefault((entry.name, entry.distribution), entry)
    return Discovery(tuple(sorted(unique.values(), key=lambda e: (e.name, e.distribution))), tuple(unreadable))


def entries(kind: str) -> tuple[Entry, ...]:
    """Every installed plugin of a kind, sorted by name, without importing any of them."""
    return discover(kind).entries


def gated(kind: str) -> frozenset[str]:
    """The names of dualproc's own presets of a kind whose models are gated; imports their module, and no other."""
    ours = [one for one in entries(kind) if one.target.startswith(f"dualproc.plugins.{kind}.presets:")]
    return frozenset(one.name for one in ours if isinstance(made := _import(one), Preset) and made.gated)


def find(kind: str, name: str) -> Entry:
    """Find the plugin with this `name`, or `distribution/name`.

    Raises PluginError if no plugin has this name, or several distributions have a plugin of this name.
    """
    known = discover(kind)
    distribution, _, bare = name.rpartition("/")
    same_name = [entry for entry in known.entries if entry.name == bare]
    matches = [entry for entry in same_name if not distribution or entry.distribution == _normalised(distribution)]
    if not matches:
        raise _unknown_name(kind, name, known)
    if len(matches) > 1:
        owners = " and ".join(f"{entry.distribution} {entry.version or ''}".strip() for entry in matches)
        choices = " or ".join(f"'{entry.distribution}/{entry.name}'" for entry in matches)
        raise PluginError(
            f"several distributions have a {singular(kind)} plugin called '{name}': {owners}", hint=f"write {choices}"
        )
    return matches[0]


def load(kind: str, name: str) -> LoadedPlugin:
    """Import the plugin called `name`, follow presets to the plugin class, and check the class.

    A preset's parameters override, key by key, those of the preset that it builds on. Raises PluginError if the plugin
    cannot be found or imported, or does not match the protocol of its kind.
    """
    named = entry = find(kind, name)
    chain: list[Entry] = []
    summary: str | None = None
    params: dict[str, Any] = {}
    gated = False
    train: Mapping[str, Any] = {}
    source = ""
    while isinstance(thing := _import(entry), Preset):
        _check_api_version(entry, thing)
        texts, mappings = (thing.of, thing.summary, thing.train_source), (thing.params, thing.train)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(one, Mapping) for one in mappings):
            strings = "strings for `of`, `summary` and `train_source`"
            raise _unusable(entry, f"its Preset needs {strings}, and mappings for `params` and `train`")
        chain.append(entry)
        summary = summary or thing.summary
        params = {**thing.params, **params}
        gated = gated or thing.gated
        if not train:
            train, source = thing.train, thing.train_source
        entry = _find_base(entry, thing)
        if entry in chain:
            cycle = " -> ".join(f"'{link.name}'" for link in [*chain, entry])
            raise _unusable(named, f"its presets form a cycle: {cycle}")
    _check_api_version(entry, thing)
    if faults := class_faults(kind, thing):
        raise _unusable(entry, "; ".join(faults))
    summary = summary or (thing.__doc__ or "").strip().partition("\n")[0]
    return LoadedPlugin(named, thing, summary, params, gated, train, source)


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _version(distribution: str) -> str | None:
    """The version from the metadata: entrypoints finds none in the egg-info folder of an editable install."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None


def _read_each_file(group: str, unreadable: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Read the entry points of each distribution separately; `get_group_all` stops at the first unreadable file.

    Lines that cannot be parsed are returned unchanged; such a plugin fails when it is loaded.
    """
    patterns = ("*.dist-info/entry_points.txt", "*.egg-info/entry_points.txt")
    for file in [file for folder in sys.path for pattern in patterns for file in sorted(Path(folder).glob(pattern))]:
        parser = entrypoints.CaseSensitiveConfigParser(delimiters=("=",))
        try:
            parser.read(file, encoding="utf-8")
            lines = parser.items(group) if parser.has_section(group) else []
        except (configparser.Error, UnicodeError, OSError) as error:
            unreadable.append(f"{file} cannot be read: {' '.join(str(error).split())}")
            continue
        distro = entrypoints.Distribution.from_name_version(file.parent.stem)
        yield from ((name, target, distro) for name, target in lines)


def _unknown_name(kind: str, name: str, known: Discovery) -> PluginError:
    qualified = "/" in name
    choices = {f"{entry.distribution}/{entry.name}" if qualified else entry.name for entry in known.entries}
    hint = "; ".join([f"`dp plugins {kind}` lists the installed plugins", *known.unreadable])
    guess = suggestion(name, sorted(choices))
    return PluginError(f"no {singular(kind)} plugin is called '{name}'", hint=f"{guess} {hint}" if guess else hint)


def failure(entry: Entry, error: BaseException, *, importing: bool = False) -> PluginError:
    """The error for an exception raised by a plugin's own code: the plugin's origin, the cause, and what to do."""
    remedy = "check its parameters, and the files that they name; or report this to the plugin's author"
    if importing:
        remedy = f"run `pip install --force-reinstall {entry.distribution}`, or report this to the plugin's author"
    cause = described(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        cause = cause.partition(": ")[2]
        if missing != entry.target.partition(":")[0].partition(".")[0]:
            remedy = f"run `pip install {missing}`"
    elif is_out_of_memory(error):
        remedy = LESS_MEMORY
    return _unusable(entry, cause, remedy)


def _unusable(entry: Entry, cause: str, remedy: str = "report this to the plugin's author") -> PluginError:
    return PluginError(f"{entry} cannot be used: {cause}", hint=remedy)


def _import(entry: Entry) -> Any:
    """The object that an entry point names; any exception of its module becomes a PluginError."""
    try:
        return entrypoints.EntryPoint.from_string(entry.target, entry.name).load()
    except entrypoints.BadEntryPoint as error:
        cause = f"expected an entry point of the form module:object, got '{entry.target}'"
        raise _unusable(entry, cause) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a third-party module may raise anything, or end the process
        raise failure(entry, error, importing=True) from error


def _find_base(entry: Entry, preset: Preset) -> Entry:
    """The plugin that a preset builds on; a plugin of the preset's own distribution comes first."""
    same = [one for one in entries(entry.kind) if (one.name, one.distribution) == (preset.of, entry.distribution)]
    if same and same[0] != entry:
        return same[0]
    try:
        return find(entry.kind, preset.of)
    except PluginError as error:
        raise _unusable(entry, f"it is a preset of '{preset.of}', but {error.message}", error.hint or "") from error


def _check_api_version(entry: Entry, thing: Any) -> None:
    if fault := version_fault(thing):
        version = getattr(thing, "api_version", None)
        newer = isinstance(version, int) and version > API_VERSION
        remedy = f"run `pip install --upgrade {'dualproc' if newer else entry.distribution}`"
        raise _unusable(entry, fault, remedy if newer else f"{remedy}, or report this to the plugin's author")


def version_fault(thing: Any) -> str | None:
    """The problem with the `api_version` of a class or preset; None if it is correct."""
    version = getattr(thing, "api_version", None)
    if not isinstance(version, int) or version < API_VERSION:
        return f"its api_version is {version!r}, but this version of dualproc needs {API_VERSION}"
    if version > API_VERSION:
        return f"it is written for plugin API {version}, but this version of dualproc has {API_VERSION}"
    return None


def class_faults(kind: str, thing: Any) -> list[str]:
    """The reasons why `thing` is not a plugin class of a kind, except its `api_version`; empty if it is one."""
    if not isinstance(thing, type):
        return ["it is neither a class nor a dualproc.protocols.Preset"]
    members = {name for base in thing.__mro__ for name in vars(base)}
    required = [*methods(PROTOCOLS[kind]), *inspect.get_annotations(PROTOCOLS[kind])]  # properties may be set later
    missing = [name for name in required if name not in members]
    lacks = [f"{thing.__name__} lacks {', '.join(missing)}"] if missing else []
    return [*_params_faults(thing), *lacks]


def _params_faults(cls: type) -> list[str]:
    params = getattr(cls, "Params", None)
    if not (isinstance(params, type) and issubclass(params, BaseModel)):
        return [f"{cls.__name__} has no nested pydantic model Params"]
    faults = []
    if params.model_config.get("extra") != "forbid":
        faults.append(f"{cls.__name__}.Params does not forbid extra keys")
    try:
        params.model_json_schema()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a type without a JSON schema, an undefined name
        faults.append(f"{cls.__name__}.Params has no JSON schema: {described(error)}")
    return faults


def methods(protocol: type) -> dict[str, Callable[..., Any]]:
    """The methods that a protocol declares, by name."""
    found = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value)}
    return {name: value for name, value in found.items() if name == "__call__" or not name.startswith("_")}
