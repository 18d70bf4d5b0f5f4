"""From a spec file to a checked TaskSpec, with every mistake and where it stands."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dualproc.errors import Problem, SpecError
from dualproc.wording import nearest

from .document import At, Node, Place, dotted, from_data, problem_at, split
from .files import read_chain
from .merge import override
from .messages import problems_from, tidy
from .models import MAX_VARIANTS, TaskSpec
from .paths import located
from .refs import PluginPlace, plugin_places
from .template import fill


@dataclass(frozen=True)
class LoadedSpec:
    """A spec as it was read: the checked TaskSpec if there is one, the problems if not, and where each value is from.

    A spec with variants of which none is chosen has been checked as each of them, but has no `spec`: see `each`.
    """

    spec: TaskSpec | None
    problems: tuple[Problem, ...]
    variant: str | None
    """The chosen variant."""
    variants: tuple[str, ...]
    """All variants of the spec."""
    document: Node = field(repr=False)
    """What the files and `--set` say; the chosen variant's values are filled in."""
    _unfilled: Node | None = field(repr=False)
    """The document before any variant is filled in; None if the file cannot be parsed."""
    _reading_problems: tuple[Problem, ...] = field(repr=False)

    def require(self) -> TaskSpec:
        """The spec.

        Raises:
            SpecError: there are problems, or the spec has variants and none is chosen.
        """
        if self.spec is not None:
            return self.spec
        missing = self.problem("variants", "no variant is chosen", hint=f"one of: {', '.join(self.variants)}", at="key")
        raise SpecError(self.problems or [missing])

    def for_variant(self, name: str) -> LoadedSpec:
        """The same spec as one of its variants; a name that it does not have is a problem of the result."""
        return self if self._unfilled is None else _load(self._unfilled, self._reading_problems, name)

    def each(self) -> tuple[LoadedSpec, ...]:
        """The spec as each of its variants; itself alone if one is chosen or there are none."""
        if self.variant is not None or not self.variants:
            return (self,)
        return tuple(self.for_variant(name) for name in self.variants[:MAX_VARIANTS])

    def plugins(self) -> tuple[PluginPlace, ...]:
        """Every plugin that the spec names; also of a spec with problems, as far as it can be read."""
        return self.spec.plugins() if self.spec else tuple(plugin_places(self.document.plain()))

    def problem(self, path: str, message: str, *, hint: str | None = None, at: At = "value") -> Problem:
        """A problem placed at the value (or, with `at="key"`, the key) of a dotted path."""
        return problem_at(self.document, split(path), message, hint=hint, at=at)

    def problems_from(self, error: ValidationError, model: type[BaseModel], path: str) -> list[Problem]:
        """The problems of the value at a dotted path, which is not a valid `model`: a plugin's `Params`."""
        return problems_from(error, model, self.document, path=split(path), names=_names(self.document))

    @property
    def origins(self) -> dict[str, str]:
        """Dotted path -> `file:line` or `--set a.b`, for every value that is not a default."""
        return {dotted(path): str(node.place) for path, node in self.document.walk() if node.place.source}


def read_spec(path: str | os.PathLike[str], *, overrides: Sequence[str] = (), variant: str | None = None) -> LoadedSpec:
    """Read and check a spec file (`.yaml`, `.yml`, `.json`).

    Precedence, from weak to strong: defaults, the file that it `extends`, the file, `overrides` (`a.b=c`) from left to
    right; then the variant's values are filled in. What is wrong with the contents is in `problems`.

    Raises:
        SpecError: the file is missing, no file, larger than 1 MB, or not readable.
    """
    document, problems = read_chain(Path(path))
    if document is None:
        shown = tidy(problems)
        return LoadedSpec(None, shown, None, (), Node({}, Place(str(path))), None, shown)
    document, more = override(document, overrides)
    return _load(document, [*problems, *more], variant)


def spec_from_dict(data: Mapping[str, Any], *, variant: str | None = None) -> TaskSpec:
    """A checked TaskSpec from plain data, as a file would hold them.

    Raises:
        SpecError: with every mistake; or the data have variants and none is chosen.
    """
    return _load(from_data(data), (), variant).require()


def _load(document: Node, reading_problems: Iterable[Problem], variant: str | None) -> LoadedSpec:
    """Choose the variant, fill it in and check; without a choice, check every variant."""
    reading_problems = tuple(reading_problems)
    variants = _variants(document)
    chosen, mistake = _choose(document, variants, variant)
    problems = [*reading_problems, *([mistake] if mistake else [])]
    filled, spec = document, None
    if chosen is None and variants:
        for name in variants[:MAX_VARIANTS]:
            problems += _check(document, name)[2]
    else:
        filled, spec, more = _check(document, chosen)
        problems += more
    shown = tidy(problems)
    return LoadedSpec(None if shown else spec, shown, chosen, variants, filled, document, reading_problems)


def _choose(document: Node, variants: Sequence[str], wanted: str | None) -> tuple[str | None, Problem | None]:
    """The variant to load: the wanted one, or the one that the document says it is."""
    own = document.child("variant")
    if wanted is None:
        # a name that does not exist, or no name at all, is for the model to refuse
        return (own.value if own and isinstance(own.value, str) else None), None
    if own is not None and own.value is not None and own.value != wanted:
        message = f"the spec says that it is the variant `{own.value}`, so it cannot be `{wanted}`"
        return None, problem_at(document, ("variant",), message)
    if wanted not in variants:
        hint = nearest(wanted, variants) if variants else "the spec has no variants"
        return None, problem_at(document, ("variants",), f"unknown variant `{wanted}`", hint=hint, at="key")
    return wanted, None


def _variants(document: Node) -> tuple[str, ...]:
    node = document.child("variants")
    return tuple(node.value) if node and isinstance(node.value, dict) else ()


def _names(document: Node) -> frozenset[str]:
    """All names that any variant gives a value."""
    return frozenset(name for variant in _variants(document) for name in _values(document, variant))


def _values(document: Node, variant: str) -> dict[str, Node]:
    """What a variant fills in; nothing if there is no such variant."""
    node, found = document.nearest(("variants", variant))
    return node.value if found and isinstance(node.value, dict) else {}


def _check(document: Node, variant: str | None) -> tuple[Node, TaskSpec | None, list[Problem]]:
    """The document as one variant, its TaskSpec if it is valid, and its problems."""
    names: Collection[str] = _names(document)
    if variant is not None:
        try:
            document = fill(document, _values(document, variant))
        except SpecError as error:
            return document, None, list(error.problems)
        own = document.child("variant")
        if own is None or own.value is None:
            document = document.with_child("variant", Node(variant))
    openable, problems = located(document)
    try:
        spec = TaskSpec.model_validate(openable.plain(), context={"variant_names": names})
    except ValidationError as error:
        return document, None, [*problems, *problems_from(error, TaskSpec, document, names=names)]
    return document, None if problems else spec, problems
