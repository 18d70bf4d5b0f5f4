"""Create a plugin package: a folder with a small, working, tested plugin of each requested kind."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader

from dualproc import __version__
from dualproc.errors import DualprocError, PluginError
from dualproc.protocols import KINDS
from dualproc.registry import singular
from dualproc.run.files import as_run_error
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


class NewPackage(NamedTuple):
    """A package that has been written."""

    folder: Path
    plugins: tuple[str, ...]
    """`kind/name` of each plugin, the argument of `dp plugins show`."""
    files: tuple[Path, ...]


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
    module, plugin = _names(name)
    wanted = list(dict.fromkeys(_kind(kind) for kind in kinds))
    folder = out or Path(name)
    texts = {folder / file: text for file, text in _texts(name, module, plugin, wanted).items()}
    with as_run_error("write", folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DualprocError(f"{folder} exists already", hint="choose another folder with `out`, or remove this one")
        for file, text in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return NewPackage(folder, tuple(f"{kind}/{plugin}" for kind in wanted), tuple(texts))


def _one(kind: str) -> str:
    """The name of the module for a plugin of a kind: `visual_prompt`."""
    return singular(kind).replace(" ", "_")


def _kind(text: str) -> str:
    """The kind that a user names: `scorer`, `scorers`, `visual-prompt`."""
    known = {_one(kind): kind for kind in KINDS}
    plain = text.strip().lower().replace("-", "_")
    if plain in KINDS or plain in known:
        return known.get(plain, plain)
    guess, kinds = suggestion(plain, [*known, *KINDS]), f"kinds: {', '.join(known)}"
    raise PluginError(f"unknown kind of plugin: '{text}'", hint=f"{guess} {kinds}" if guess else kinds)


def _names(name: str) -> tuple[str, str]:
    """The module of a package and the name of its plugins: `dualproc_soft_light`, `soft_light`."""
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
    return module, plugin if plugin.isidentifier() and not keyword.iskeyword(plugin) else module


def _texts(distribution: str, module: str, plugin: str, kinds: Sequence[str]) -> dict[str, str]:
    """The text of each file, by its path in the package."""
    templates = Environment(loader=PackageLoader(__name__), keep_trailing_newline=True)
    classes = {kind: "".join(word.capitalize() for word in f"{plugin}_{_one(kind)}".split("_")) for kind in kinds}
    templates.globals.update(
        distribution=distribution,
        module=module,
        name=plugin,
        version=__version__,
        kinds=", ".join(map(singular, kinds)),
        plugins="\n".join(f"* the {singular(kind)} `{plugin}`" for kind in kinds),
        show="\n".join(f"dp plugins show {kind}/{plugin}" for kind in kinds),
        uses="\n".join(USES[kind].replace("{{name}}", plugin) for kind in kinds),
        entry_points="\n\n".join(
            f'[project.entry-points."dualproc.{kind}"]\n{plugin} = "{module}.{_one(kind)}:{classes[kind]}"'
            for kind in kinds
        ),
    )
    texts = {name: templates.get_template(f"{name}.txt").render() for name in ("pyproject.toml", "README.md")}
    texts[f"src/{module}/__init__.py"] = f'"""Plugins for dualproc: {distribution}."""\n'
    for kind in kinds:
        for folder, file in ((f"src/{module}", f"{_one(kind)}.py"), ("tests", f"test_{_one(kind)}.py")):
            texts[f"{folder}/{file}"] = templates.get_template(f"{file}.txt").render({"class": classes[kind]})
    return texts
