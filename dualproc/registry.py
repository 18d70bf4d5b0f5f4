"""Which plugins are installed, and how one is loaded: the entry points of the groups `dualproc.<kind>`.

Listing imports nothing. A plugin is imported when something names it, and is then checked against its kind's protocol.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import inspect
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import entrypoints

from . import protocols
from .errors import PluginError
from .protocols import API_VERSION, KINDS, Preset
from .wording import suggestion

if TYPE_CHECKING:
    from pydantic import BaseModel

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
    """One installed plugin, known by its metadata only."""

    kind: str
    name: str
    distribution: str
    """Normalised name, as pip takes it."""
    version: str | None
    target: str
    """`module:object`, as the distribution declares it."""

    def __str__(self) -> str:
        origin = f"{self.distribution} {self.version or '(unknown version)'}"
        return f"{singular(self.kind)} '{self.name}' ({origin}, entry point {self.target})"


@dataclass(frozen=True)
class Discovery:
    """What a look at the installed distributions found."""

    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...] = ()
    """One message for each entry_points.txt that could not be read."""


@dataclass(frozen=True)
class LoadedPlugin:
    """A plugin class and, if it was named through presets, the parameters that they fill in."""

    entry: Entry
    cls: type[Any]
    summary: str
    preset: Mapping[str, Any]

    def params(self, given: Mapping[str, Any]) -> Any:
        """The plugin's `Params`, from what the preset fills in and, over it, what is given.

        Raises:
            pydantic.ValidationError: they are not valid.
            PluginError: the plugin's own validation failed otherwise.
        """
        from pydantic import ValidationError

        try:
            return validated(self.cls.Params, {**self.preset, **given})
        except ValidationError:
            raise
        except Exception as error:  # a stranger's validator may raise anything
            raise failure(self.entry, error) from error

    def schema(self) -> dict[str, Any]:
        """The JSON schema of `Params`; what the preset fills in is a default."""
        schema: dict[str, Any] = self.cls.Params.model_json_schema()
        for name, value in self.preset.items():
            schema["properties"][name] = {**schema["properties"].get(name, {}), "default": value}
        required = [name for name in schema.pop("required", ()) if name not in self.preset]
        return {**schema, "required": required} if required else schema


def validated(params: type[BaseModel], given: Mapping[str, Any]) -> Any:
    """A plugin's `Params` of what a spec gives. Raises whatever they raise, pydantic.ValidationError by rights.

    Nothing is taken for something else: `true` is no number, nor is `"5"`, and `2.5` is no whole one. By way of JSON:
    only there does pydantic's strict mode take a list for a tuple and a text for a path.
    """
    from pydantic_core import to_json

    return params.model_validate_json(to_json(dict(given), inf_nan_mode="constants"), strict=True)


def target_of(plugin: type) -> str:
    """A class as entry points write it: `module:Class`."""
    return f"{plugin.__module__}:{plugin.__qualname__}"


def singular(kind: str) -> str:
    """One plugin of a kind, for messages: `visual prompt` for `visual_prompts`."""
    return kind.replace("_", " ").removesuffix("s")


def require_kind(kind: str) -> None:
    """Raises PluginError if there is no such kind of plugin."""
    if kind not in KINDS:
        raise PluginError(f"'{kind}' is no kind of plugin", hint=f"kinds: {', '.join(KINDS)}")


def discover(kind: str) -> Discovery:
    """Every installed plugin of a kind, sorted by name, without importing any of them."""
    require_kind(kind)
    group = f"dualproc.{kind}"
    unreadable: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # how get_group_all reports a line that it leaves out
            points = entrypoints.get_group_all(group)
        found = [(p.name, f"{p.module_name}:{p.object_name or ''}".rstrip(":"), p.distro) for p in points]
    except (UserWarning, configparser.Error, UnicodeError, OSError):
        found = list(_salvage(group, unreadable))
    unique: dict[tuple[str, str], Entry] = {}
    for name, target, distro in found:
        entry = _entry(kind, name, target, distro)
        unique.setdefault((entry.name, entry.distribution), entry)
    return Discovery(tuple(sorted(unique.values(), key=lambda e: (e.name, e.distribution))), tuple(unreadable))


def entries(kind: str) -> tuple[Entry, ...]:
    """Every installed plugin of a kind, sorted by name, without importing any of them."""
    return discover(kind).entries


def find(kind: str, name: str) -> Entry:
    """The one plugin called `name`, or `distribution/name`.

    Raises:
        PluginError: no plugin has that name, or plugins of several distributions have it.
    """
    known = discover(kind)
    distribution, _, bare = name.rpartition("/")
    same_name = [entry for entry in known.entries if entry.name == bare]
    matches = [entry for entry in same_name if not distribution or entry.distribution == _normalised(distribution)]
    if not matches:
        raise _unknown(kind, name, known)
    if len(matches) > 1:
        owners = " and ".join(f"{entry.distribution} {entry.version or ''}".strip() for entry in matches)
        choices = " or ".join(f"'{entry.distribution}/{entry.name}'" for entry in matches)
        raise PluginError(f"{singular(kind)} '{name}' is in several distributions: {owners}", hint=f"write {choices}")
    return matches[0]


def load(kind: str, name: str) -> LoadedPlugin:
    """Import the plugin called `name`, following presets to the class that they stand for, and check it.

    A preset's parameters win, key by key, over those of the preset that it builds on.

    Raises:
        PluginError: it cannot be found or imported, or does not keep to its kind's protocol; says what to do.
    """
    named = entry = find(kind, name)
    chain: list[Entry] = []
    summary: str | None = None
    params: dict[str, Any] = {}
    while isinstance(thing := _import(entry), Preset):
        _check_api_version(entry, thing)
        _check_preset(entry, thing)
        chain.append(entry)
        summary = summary or thing.summary
        params = {**thing.params, **params}
        entry = _find_base(entry, thing)
        if entry in chain:
            circle = " -> ".join(f"'{link.name}'" for link in [*chain, entry])
            raise _unusable(named, f"its presets go in a circle: {circle}", _TELL_AUTHOR)
    _check_api_version(entry, thing)
    if faults := class_faults(kind, thing):
        raise _unusable(entry, "; ".join(faults), _TELL_AUTHOR)
    return LoadedPlugin(named, thing, summary or _first_line(thing), params)


_TELL_AUTHOR = "this is for the plugin's author to mend"


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _entry(kind: str, name: str, target: str, distro: Any) -> Entry:
    version = distro.version
    if version is None:  # an egg-info folder in a source tree, as an editable install has it, does not tell
        try:
            version = importlib.metadata.version(distro.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
    return Entry(kind, name, _normalised(distro.name), version, target)


def _salvage(group: str, unreadable: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Read each distribution's file by itself: `get_group_all` stops at the first that it cannot read.

    Lines that cannot be parsed come along as they are, and fail when somebody names them.
    """
    for folder in sys.path:
        for pattern in ("*.dist-info/entry_points.txt", "*.egg-info/entry_points.txt"):
            for file in sorted(Path(folder).glob(pattern)):
                parser = entrypoints.CaseSensitiveConfigParser(delimiters=("=",))
                try:
                    parser.read(file, encoding="utf-8")
                    lines = parser.items(group) if parser.has_section(group) else []
                except (configparser.Error, UnicodeError, OSError) as error:
                    unreadable.append(f"{file} cannot be read: {' '.join(str(error).split())}")
                    continue
                distro = entrypoints.Distribution.from_name_version(file.parent.stem)
                yield from ((name, target, distro) for name, target in lines)


def _unknown(kind: str, name: str, known: Discovery) -> PluginError:
    qualified = "/" in name
    choices = {f"{entry.distribution}/{entry.name}" if qualified else entry.name for entry in known.entries}
    hints = [guess] if (guess := suggestion(name, sorted(choices))) else []
    hints.append(f"`dp plugins {kind}` lists what is installed")
    hints.extend(known.unreadable)
    return PluginError(f"no {singular(kind)} plugin is called '{name}'", hint="; ".join(hints))


def failure(entry: Entry, error: BaseException) -> PluginError:
    """What to tell about an exception that a plugin's own code raised: its origin, the cause, what to do."""
    remedy = f"`pip install --force-reinstall {entry.distribution}`, or tell its author"
    cause = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        cause = str(error)
        if missing != entry.target.partition(":")[0].partition(".")[0]:
            remedy = f"pip install {missing}"
    return _unusable(entry, cause, remedy)


def _unusable(entry: Entry, cause: str, remedy: str) -> PluginError:
    return PluginError(f"{entry} cannot be used: {cause}", hint=remedy)


def _import(entry: Entry) -> Any:
    """The object that an entry point names; whatever its module raises becomes a PluginError."""
    try:
        return entrypoints.EntryPoint.from_string(entry.target, entry.name).load()
    except entrypoints.BadEntryPoint as error:
        raise _unusable(entry, f"'{entry.target}' is not of the form module:object", _TELL_AUTHOR) from error
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything, and some end the process
        raise failure(entry, error) from error


def _find_base(entry: Entry, preset: Preset) -> Entry:
    """What a preset builds on: of several plugins of that name, the one that came with it."""
    with_it = [one for one in entries(entry.kind) if (one.name, one.distribution) == (preset.of, entry.distribution)]
    if with_it and with_it[0] != entry:
        return with_it[0]
    try:
        return find(entry.kind, preset.of)
    except PluginError as error:
        raise _unusable(entry, f"it is a preset of '{preset.of}', but {error.message}", error.hint or "") from error


def _check_api_version(entry: Entry, thing: Any) -> None:
    if fault := version_fault(thing):
        version = getattr(thing, "api_version", None)
        newer = isinstance(version, int) and version > API_VERSION
        behind = "dualproc" if newer else f"{entry.distribution}, or tell its author"
        raise _unusable(entry, fault, f"pip install --upgrade {behind}")


def version_fault(thing: Any) -> str | None:
    """What is wrong with the `api_version` of a class or preset; None if nothing is."""
    version = getattr(thing, "api_version", None)
    if not isinstance(version, int) or version < API_VERSION:
        return f"its api_version is {version!r}, but this dualproc needs {API_VERSION}"
    if version > API_VERSION:
        return f"it is written for plugin API {version}, but this dualproc has {API_VERSION}"
    return None


def class_faults(kind: str, thing: Any) -> list[str]:
    """What keeps a thing from being a plugin class of a kind, apart from its `api_version`; empty if nothing does."""
    if not isinstance(thing, type):
        return ["it is neither a class nor a dualproc.protocols.Preset"]
    members = {name for base in thing.__mro__ for name in vars(base)}
    missing = [name for name in _required(PROTOCOLS[kind]) if name not in members]
    lacks = [f"{thing.__name__} lacks {', '.join(missing)}"] if missing else []
    return [*_params_faults(thing), *lacks]


def _params_faults(cls: type) -> list[str]:
    from pydantic import BaseModel

    params = getattr(cls, "Params", None)
    if not (isinstance(params, type) and issubclass(params, BaseModel)):
        return [f"{cls.__name__} has no nested pydantic model Params"]
    faults = []
    if params.model_config.get("extra") != "forbid":
        faults.append(f"{cls.__name__}.Params does not forbid extra keys")
    try:
        params.model_json_schema()
    except Exception as error:  # a type that JSON cannot hold, a name that is not defined
        first = str(error).strip().partition("\n")[0]
        faults.append(f"{cls.__name__}.Params has no JSON schema: {type(error).__name__}: {first}")
    return faults


def _check_preset(entry: Entry, preset: Preset) -> None:
    """Refuse a preset whose fields are of other types than declared: nothing has checked them yet."""
    if not (isinstance(preset.of, str) and isinstance(preset.summary, str) and isinstance(preset.params, Mapping)):
        raise _unusable(entry, "its Preset needs texts as `of` and `summary`, and a mapping as `params`", _TELL_AUTHOR)


def _required(protocol: type) -> list[str]:
    """What a class itself must have: methods and class variables. Properties may be set in the constructor."""
    methods = [name for name, value in vars(protocol).items() if inspect.isfunction(value)]
    public = [name for name in methods if name == "__call__" or not name.startswith("_")]
    return [*public, *inspect.get_annotations(protocol)]


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]
