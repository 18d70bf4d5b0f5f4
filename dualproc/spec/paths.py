"""The files that a spec uses: every plugin's parameter `path`, and the LoRA that `train.lora.init` names.

In a spec file, a path is relative to that file. In `--set` and in a spec built in Python, it is relative to the current
folder. Loading converts it to a path that can be opened from the current folder, so plugins can open it directly. A
path must not leave the folder that it is relative to, so that a third-party spec cannot read other files.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dualproc.errors import DualprocError, Problem

from .document import KeyPath, Node, from_data, problem_at, split
from .merge import SET
from .models import TaskSpec
from .refs import plugin_places
from .template import placeholders

FILE = "path"
"""The name of the plugin parameter that holds a path."""
INIT = ("train", "lora", "init")
"""The key of the LoRA that the training starts from: a file, or a run's folder."""
WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file name of a run's LoRA, which diffusers looks for."""
MODELS = ("model", "reward_vae")
"""The names of plugin parameters that hold a hub id or a folder, relative to the current folder."""


def resolve_paths(document: Node) -> tuple[Node, list[Problem]]:
    """Make all paths relative to the current folder; return the document, and problems of unusable paths."""
    problems = []
    for path, written in _file_params(document.plain()):
        if placeholders(written) and path != INIT:
            continue  # reported as an unknown placeholder
        node = document.nearest(path)[0]
        try:
            file = _resolve(written, _base_folder(node.place.source), lora=path == INIT)
        except DualprocError as error:
            problems.append(problem_at(document, path, error.message, hint=error.hint))
        else:
            document = document.with_node(path, replace(node, value=file.as_posix()))
    return document, problems


def named_files(spec: TaskSpec) -> tuple[str, ...]:
    """The paths of all existing files that the spec uses, without duplicates."""
    return tuple(dict.fromkeys(file for _, file in _file_params(spec.model_dump()) if pathlib.Path(file).is_file()))


def lora_file(path: str) -> pathlib.Path:
    """The file of the LoRA that `train.lora.init` names: a run's own, if it names a folder."""
    return pathlib.Path(path, WEIGHTS) if pathlib.Path(path).is_dir() else pathlib.Path(path)


def named_models(spec: TaskSpec) -> tuple[str, ...]:
    """The hub ids and folders of all models that the spec's plugins load, without duplicates."""
    return tuple(dict.fromkeys(model for _, model in _text_params(spec.model_dump(), MODELS)))


def with_files(spec: TaskSpec, names: Mapping[str, str]) -> TaskSpec:
    """The spec with the paths and models in `names` (old name to new name) replaced."""
    if not names:
        return spec
    document = from_data(spec)
    for path, old in (*_file_params(document.plain()), *_text_params(document.plain(), MODELS)):
        document = document.with_node(path, Node(names.get(old, old)))
    return TaskSpec.model_validate(document.plain())


def _file_params(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Every path in plain data: its place, and the path as written."""
    yield from _text_params(data, (FILE,))
    value: Any = data
    for key in INIT:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        yield INIT, value


def _text_params(data: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[KeyPath, str]]:
    """Every plugin parameter of these names that is a text: its place, and the text."""
    for place in plugin_places(data):
        for name in names:
            if isinstance(text := place.params.get(name), str):
                yield (*split(place.path), name), text


def _base_folder(source: str | None) -> pathlib.Path:
    """The folder that a path written in `source` is relative to."""
    return pathlib.Path() if source is None or source.startswith(SET) else pathlib.Path(source).parent


def _resolve(written: str, folder: pathlib.Path, *, lora: bool = False) -> pathlib.Path:
    """The file at a path in `folder`; if that is a run and a `lora` is wanted, the file in it.

    Raises DualprocError if the path is absolute, leaves `folder`, or names no file.
    """
    where = "the current folder" if folder == pathlib.Path() else f"the folder {folder}"
    flavours = pathlib.PurePosixPath(written), pathlib.PureWindowsPath(written)
    if any(flavour.anchor or ".." in flavour.parts for flavour in flavours):
        raise DualprocError(f"{written!r} is not a relative path without `..`", hint=f"write a path inside {where}")
    file = folder / written
    try:
        file = lora_file(str(file)) if lora else file
        inside = file.resolve().is_relative_to(folder.resolve())
        exists = file.is_file()
    except (OSError, ValueError, RuntimeError):  # a null character; a loop of links
        raise DualprocError(f"{written!r} is not a valid file name") from None
    if not inside:
        hint = "copy the file itself there instead of linking to it"
        raise DualprocError(f"{written!r} points outside {where}", hint=hint)
    if not exists:
        raise DualprocError(f"no such file: {file.as_posix()}", hint=f"paths are relative to {where}")
    return file
