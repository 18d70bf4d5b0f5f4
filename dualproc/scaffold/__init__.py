"""Create a plugin package: a folder with a small, working, tested plugin of each requested kind."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dualproc import __version__
from dualproc.errors import DualprocError, PluginError
from dualproc.protocols import KINDS
from dualproc.registry import singular
from dualproc.wording import suggestion

USES: Mapping[str, str] = {
    "generators": "generator: {type: {{name}}}",
    "judges": "judge: {type: {{name}}}",
    "rewards": "reward: {type: {{name}}}",
    "visual_prompts": "visual_prompt: {layers: [{type: {{name}}}]}",
    "anchors": "anchor: {type: {{name}}, weight: 1.0}",
    "scorers": "scorers: [{type: {{name}}, target: 0.5}]",
}
"""How a spec names a plugin of each kind."""

LONGEST = 32
"""The most characters of a package name; with more, lines of the templates would exceed 120 characters."""


@dataclass(frozen=True)
class NewPackage:
    """A package that has been written."""

    folder: Path
    plugins: tuple[str, ...]
    """`kind/name` of each plugin, the argument of `dp plugins show`."""
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Names:
    """The names of a package `dualproc-soft-light` and its plugins."""

    distribution: str
    """`dualproc-soft-light`"""
    module: str
    """`dualproc_soft_light`"""
    plugin: str
    """`soft_light`, the same for all kinds"""

    def cls(self, kind: str) -> str:
        """`SoftLightScorer`."""
        return "".join(word.capitalize() for word in f"{self.plugin}_{_one(kind)}".split("_"))


def new_package(name: str, kinds: Sequence[str] = ("scorers",), *, out: Path | None = None) -> NewPackage:
    """Write a package with a plugin of each kind; the plugins are named after the package.

    Args:
        name: the name of the distribution, such as `dualproc-redness`.
        kinds: some of `dualproc.protocols.KINDS`, in plural or singular form: `scorers`, `scorer`.
        out: the folder of the package, which must be empty or not exist; by default a folder called `name`.

    Raises:
        PluginError: the name is not valid, or a kind is unknown.
        DualprocError: the folder is not empty, or cannot be written.
    """
    names = _named(name)
    wanted = list(dict.fromkeys(_kind(kind) for kind in kinds))
    folder = out or Path(name)
    texts = _texts(names, wanted)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DualprocError(f"{folder} exists already", hint="choose another folder with --out, or remove this one")
        for file, text in texts.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DualprocError(
            f"{folder} cannot be written: {error.strerror}", hint="choose another with --out"
        ) from error
    return NewPackage(
        folder, tuple(f"{kind}/{names.plugin}" for kind in wanted), tuple(folder / file for file in texts)
    )


def _one(kind: str) -> str:
    """The name of the module for a plugin of a kind: `visual_prompt`."""
    return singular(kind).replace(" ", "_")


def _kind(text: str) -> str:
    """The kind that a user names: `scorer`, `scorers`, `visual-prompt`."""
    plain = text.strip().lower().replace("-", "_")
    for kind in KINDS:
        if plain in (kind, _one(kind)):
            return kind
    singular = [_one(kind) for kind in KINDS]
    guess = suggestion(plain, [*singular, *KINDS])
    kinds = f"kinds: {', '.join(singular)}"
    raise PluginError(f"unknown kind of plugin: '{text}'", hint=f"{guess} {kinds}" if guess else kinds)


def _named(name: str) -> _Names:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", name):
        raise PluginError(
            f"invalid package name '{name}'",
            hint="use letters and digits, beginning with a letter, separated by single -, _ or . (dualproc-redness)",
        )
    if len(name) > LONGEST:
        raise PluginError(f"the package name '{name}' has {len(name)} characters", hint=f"use at most {LONGEST}")
    module = re.sub(r"[-.]", "_", name).lower()
    found = importlib.util.find_spec(module) if not keyword.iskeyword(module) else None
    if keyword.iskeyword(module) or (found is not None and found.origin is not None):
        raise PluginError(
            f"the package name '{name}' is taken: Python already has a keyword or module '{module}'",
            hint="choose another name, such as dualproc-redness",
        )
    plugin = module.removeprefix("dualproc_")
    return _Names(name, module, plugin if plugin.isidentifier() and not keyword.iskeyword(plugin) else module)


def _texts(names: _Names, kinds: Sequence[str]) -> dict[Path, str]:
    """The text of each file, by its path in the package."""
    common = {"distribution": names.distribution, "module": names.module, "name": names.plugin}
    source, tests = Path("src", names.module), Path("tests")
    texts = {
        Path("pyproject.toml"): _filled(
            "pyproject.toml",
            common,
            kinds=", ".join(singular(kind) for kind in kinds),
            version=__version__,
            entry_points="\n\n".join(
                f'[project.entry-points."dualproc.{kind}"]\n'
                f'{names.plugin} = "{names.module}.{_one(kind)}:{names.cls(kind)}"'
                for kind in kinds
            ),
        ),
        Path("README.md"): _filled(
            "README.md",
            common,
            plugins="\n".join(f"* the {singular(kind)} `{names.plugin}`" for kind in kinds),
            show="\n".join(f"dp plugins show {kind}/{names.plugin}" for kind in kinds),
            uses="\n".join(USES[kind].replace("{{name}}", names.plugin) for kind in kinds),
        ),
        source / "__init__.py": f'"""Plugins for dualproc: {names.distribution}."""\n',
    }
    for kind in kinds:
        of_kind = {**common, "class": names.cls(kind)}
        texts[source / f"{_one(kind)}.py"] = _filled(f"{_one(kind)}.py", of_kind)
        texts[tests / f"test_{_one(kind)}.py"] = _filled(f"test_{_one(kind)}.py", of_kind)
    return texts


def _filled(template: str, values: Mapping[str, str], **more: str) -> str:
    """A template with its `{{placeholders}}` filled in."""
    text = (resources.files(__name__) / "templates" / f"{template}.txt").read_text(encoding="utf-8")
    for key, value in {**values, **more}.items():
        text = text.replace("{{" + key + "}}", value)
    return text
