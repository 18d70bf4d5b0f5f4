"""Load a spec file into a checked TaskSpec, and report every mistake with its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from dualproc.errors import Problem, SpecError
from dualproc.wording import nearest

from .crosschecks import cross_problems
from .document import Node, Place, dotted, from_data, problem_at
from .files import read_chain
from .merge import merge, override
from .messages import for_report, problems_from
from .models import MAX_VARIANTS, TaskSpec
from .paths import resolve_paths
from .refs import PluginPlace, plugin_places
from .shipped import locate
from .sliders import corners, filled
from .template import defined_names, fill, slider_names


@dataclass(frozen=True)
class LoadedSpec:
    """A loaded spec: the checked TaskSpec or the problems, and the origin of each value.

    If the spec has variants and none is chosen, every variant has been checked, but `spec` is None; see `each`.
    """

    spec: TaskSpec | None
    problems: tuple[Problem, ...]
    variant: str | None
    """The chosen variant; None if none is chosen."""
    variants: tuple[str, ...]
    """The names of all variants of the spec."""
    document: Node = field(repr=False)
    """The merged values of the files and `--set`, with the chosen variant's values filled in."""
    _unfilled: Node | None = field(repr=False)
    """The document before a variant is filled in; None if the file cannot be parsed."""
    _reading_problems: tuple[Problem, ...] = field(repr=False)

    def require(self) -> TaskSpec:
        """The spec. Raises SpecError if it has problems, or if it has variants and none is chosen."""
        if self.spec is not None:
            return self.spec
        hint = f"choose one of: {', '.join(self.variants)}"
        missing = problem_at(self.document, "variants", "no variant is chosen", hint=hint, at="key")
        raise SpecError(self.problems or [missing])

    def for_variant(self, name: str) -> LoadedSpec:
        """The same spec with the variant `name` filled in; an unknown name is a problem of the result."""
        return self if self._unfilled is None else _load(self._unfilled, self._reading_problems, name)

    def each(self) -> tuple[LoadedSpec, ...]:
        """The spec as each of its variants; only itself if a variant is chosen or there are none."""
        if self.variant is not None or not self.variants:
            return (self,)
        return tuple(self.for_variant(name) for name in self.variants[:MAX_VARIANTS])

    def plugins(self) -> tuple[PluginPlace, ...]:
        """Every plugin that the spec names; for a spec with problems, as far as it can be read."""
        if self.spec:
            return self.spec.plugins()
        sliders = self.document.mapping("sliders").items()
        lowest = {name: low for name, slider in sliders if (low := slider.child("from")) is not None}
        return tuple(plugin_places(fill(self.document, lowest).plain()))

    @property
    def origins(self) -> dict[str, str]:
        """The origin (`file:line` or `--set a.b`) of every value that is not a default, by dotted path."""
        return {dotted(path): str(node.place) for path, node in self.document.walk() if node.place.source}


def read_spec(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    variant: str | None = None,
    text: str | None = None,
    suggest: Callable[[Node], Node] | None = None,
) -> LoadedSpec:
    """Read and check a spec: a file (`.yaml`, `.yml`, `.json`), or the name of a shipped spec, such as `line_weight`.

    Precedence, from low to high: defaults, what `suggest` returns for the document, the file named by `extends`, the
    file itself, `overrides` (`a.b=c`) from left to right. The variant's values are filled in last. `text` replaces the
    content of the file, which then need not exist (its folder is where relative paths start). Mistakes in the contents
    are returned in `problems`. Raises SpecError if the file is missing, not a regular file, larger than 1 MB, or not
    readable.
    """
    file = locate(path)
    document, problems = read_chain(file, text)
    if document is None:
        shown = for_report(problems)
        return LoadedSpec(None, shown, None, (), Node({}, Place(str(file))), None, shown)
    document, more = override(document, overrides)
    document = merge(suggest(document), document) if suggest else document
    return _load(document, [*problems, *more], variant)


def spec_from_dict(data: Mapping[str, Any], *, variant: str | None = None) -> TaskSpec:
    """A checked TaskSpec from plain data with the structure of a spec file.

    Raises SpecError if the data have mistakes (it lists all of them), or have variants and none is chosen.
    """
    return _load(from_data(data), (), variant).require()


def _load(document: Node, reading_problems: Iterable[Problem], variant: str | None) -> LoadedSpec:
    """Choose the variant, fill in its values and check the result; without a choice, check every variant."""
    reading_problems = tuple(reading_problems)
    variants = tuple(document.mapping("variants"))
    chosen, mistake = _choose(document, variants, variant)
    problems = [*reading_problems, *([mistake] if mistake else [])]
    filled, spec = document, None
    if chosen is None and variants:
        for name in variants[:MAX_VARIANTS]:
            problems += _check(document, name)[2]
    else:
        filled, spec, more = _check(document, chosen)
        problems += more
    shown = for_report(problems)
    return LoadedSpec(None if shown else spec, shown, chosen, variants, filled, document, reading_problems)


def _choose(document: Node, variants: Sequence[str], wanted: str | None) -> tuple[str | None, Problem | None]:
    """The variant to load: `wanted`, or else the document's `variant` key; and the problem if it cannot be chosen."""
    own = document.child("variant")
    if wanted is None:
        # TaskSpec reports an unknown name and a value that is not a name.
        return (own.value if own and isinstance(own.value, str) else None), None
    if own is not None and own.value is not None and own.value != wanted:
        message = f"the spec is fixed to the variant `{own.value}`, so `{wanted}` cannot be chosen"
        return None, problem_at(document, "variant", message)
    if wanted not in variants:
        hint = nearest(wanted, variants) if variants else "the spec has no variants"
        return None, problem_at(document, "variants", f"unknown variant `{wanted}`", hint=hint, at="key")
    return wanted, None


def _check(document: Node, variant: str | None) -> tuple[Node, TaskSpec | None, list[Problem]]:
    """The document with one variant filled in, its TaskSpec (None if it has problems), and its problems."""
    if variant is not None:
        try:
            document = fill(document, document.mapping("variants", variant))
        except SpecError as error:
            return document, None, list(error.problems)
        own = document.child("variant")
        if own is None or own.value is None:
            document = document.with_node(("variant",), Node(variant))
    openable, problems = resolve_paths(document)
    names = {"variant_names": defined_names(document), "slider_names": slider_names(document)}
    try:
        spec = TaskSpec.model_validate(openable.plain(), context=names)
    except ValidationError as error:
        return document, None, [*problems, *problems_from(error, TaskSpec, document), *cross_problems(document)]
    for values in corners(spec.sliders) if spec.sliders else ():
        try:
            filled(spec, values)
        except ValidationError as error:
            problems += problems_from(error, TaskSpec, document)
        except SpecError as error:
            problems += error.problems
    return document, None if problems else spec, problems
