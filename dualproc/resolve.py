"""Turn a spec into live plugins: look up every name in the registry, and let each plugin check its parameters."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dualproc.spec.document import Node, Place, dotted, from_data, problem_at, split
from dualproc.spec.messages import for_report
from dualproc.spec.mistakes import MAX_PROBLEMS

from . import registry
from .errors import DualprocError, PluginError, Problem, SpecError
from .protocols import KINDS
from .registry import LoadedPlugin
from .spec import LoadedSpec, PluginPlace, PluginRef, TaskSpec, json_schema, problems_from, questions_in, read_spec
from .wording import command, listed

Builder = Callable[[str, PluginRef], Any]
"""Builds a live plugin from its kind and its reference in a spec, as `build` does."""

SHIPPED = Path(__file__).resolve().parent / "weights"
_PRETRAINED = {"judge": "qwen2.5-vl", "referee": "smolvlm2"}
"""Presets to use instead of a shipped judge or referee; of two families."""

TRUST = "trust_remote_code"
"""The parameter of diffusers and transformers that runs code from a model's files; no spec may set it."""


def load_spec(path: str | os.PathLike[str], *, overrides: Sequence[str] = (), variant: str | None = None) -> TaskSpec:
    """Read and check a spec, a file or a shipped one by name, including the parameters of every plugin that it names.

    Raises SpecError if the spec has mistakes (it lists each with its place), or it has variants and none is chosen.
    """
    return read_checked(path, overrides=overrides, variant=variant).require()


def read_checked(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    variant: str | None = None,
    text: str | None = None,
) -> LoadedSpec:
    """Like `load_spec`, but also returns the origin of every value, and without a chosen variant checks all of them.

    `text` replaces the content of the file, see `dualproc.spec.read_spec`. Where the spec sets no value of `train`, the
    one is used that is published for its generator, if the generator is a preset that has one.
    Raises SpecError if the spec has mistakes; it lists each with its place.
    """
    loaded = read_spec(path, overrides=overrides, variant=variant, text=text, suggest=_published)
    load = functools.cache(registry.load)
    problems = list(loaded.problems)
    for one in loaded.each():
        if len(problems) > MAX_PROBLEMS:
            break
        problems += _plugin_problems(one.plugins(), one.document, load)
    _raise_problems(problems)
    return loaded


def check_plugins(spec: TaskSpec) -> None:
    """Check every plugin that a spec names and its parameters, without building any of them.

    Raises SpecError if there are mistakes; it lists each with its path.
    """
    _raise_problems(_plugin_problems(spec.plugins(), from_data(spec), functools.cache(registry.load)))


def is_shipped(kind: str, ref: PluginRef) -> bool:
    """Whether the model of a plugin is one of the toys in `dualproc/weights`. Raises PluginError as `build` does."""
    model = getattr(registry.load(kind, ref.type).params(ref.params), "model", None)
    return isinstance(model, str) and Path(model).resolve().is_relative_to(SHIPPED)


def toy_mix(spec: TaskSpec) -> str | None:
    """A warning if a shipped toy judge or referee looks at the images of another generator; None if none does.

    The plugins of the spec must be valid, see `check_plugins`.
    """
    asked = {"judge": spec.judges, "referee": spec.referees}
    toys = [role for role, refs in asked.items() if any(is_shipped("judges", ref) for _, ref in refs)]
    if not toys or is_shipped("generators", spec.generator):
        return None
    flags = " ".join(command("--set", f"{role}={{type: {_PRETRAINED[role]}}}") for role in toys)
    subject = f"the {' and the '.join(toys)} {'is a toy model' if len(toys) == 1 else 'are toy models'}"
    suggested = published(spec)
    return (
        f"{subject}: models shipped with dualproc know only the 64-pixel cartoons of the shipped generator, so their "
        f"answers about images of `{spec.generator.type}` mean nothing\n"
        f"  Use pretrained models: {flags}\n"
        "  Check scorers, train.steps, train.lr and train.lora too: values for the toy models do not suit other models"
        + (f"\n  Note: {suggested}" if suggested else "")
    )


def _published(document: Node) -> Node:
    """A document with the training settings that are published for a document's generator; often empty."""
    named = document.nearest(("generator", "type"))
    try:
        plugin = registry.load("generators", str(named[0].value)) if named[1] else None
    except PluginError:  # reported with the spec's other mistakes
        plugin = None
    if plugin is None or not plugin.train:
        return Node({})
    return from_data({"train": plugin.train}, Place(f"generators/{plugin.entry.name}, from {plugin.train_source}"))


def published(spec: TaskSpec) -> str | None:
    """Where training settings for the spec's generator are published, and those that differ; None if nowhere.

    Raises PluginError if the generator cannot be found or loaded.
    """
    plugin = registry.load("generators", spec.generator.type)
    if not plugin.train:
        return None
    ours = dict(from_data({"train": spec.train}).walk())
    differ = [
        f"{dotted(path)}={node.value}"
        for path, node in from_data({"train": plugin.train}).walk()
        if not isinstance(node.value, (dict, list)) and path in ours and ours[path].value != node.value
    ]
    text = f"training settings published for {spec.generator.type} ({plugin.train_source})"
    flags = command(*(part for one in differ for part in ("--set", one)))
    return f"the spec differs from the {text}; to use them: {flags}" if differ else f"{text} are used"


def build(kind: str, ref: PluginRef) -> Any:
    """Build a live plugin of a kind.

    Raises PluginError if the plugin cannot be found, loaded or built, and SpecError if its parameters are not valid.
    """
    plugin = registry.load(kind, ref.type)
    place, document = PluginPlace(kind, kind, ref.type, ref.params), from_data({kind: ref})
    _raise_problems(_remote_code_problems(place, document))
    try:
        params = plugin.params(ref.params)
    except ValidationError as error:
        raise SpecError(_params_problems(error, plugin, place, document)) from error
    try:
        return plugin.cls(params)
    except (DualprocError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a third-party constructor may raise anything, or end the process
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


def _plugin_problems(
    places: Iterable[PluginPlace], document: Node, load: Callable[[str, str], LoadedPlugin]
) -> list[Problem]:
    problems: list[Problem] = []
    for place in places:
        if len(problems) > MAX_PROBLEMS:
            break
        if forbidden := _remote_code_problems(place, document):
            problems += forbidden
            continue
        try:
            plugin = load(place.kind, place.type)
            plugin.params(place.params)
            problems += _too_few_candidates(place, plugin, document)
        except PluginError as error:
            problems.append(problem_at(document, f"{place.path}.type", error.message, hint=error.hint))
        except ValidationError as error:
            problems += _params_problems(error, plugin, place, document)
    return problems


def _too_few_candidates(place: PluginPlace, plugin: LoadedPlugin, document: Node) -> list[Problem]:
    """One problem for each question that has fewer candidates than the reward compares."""
    least: int = getattr(plugin.cls, "least_candidates", 1) if place.kind == "rewards" else 1
    problems = []
    for path, question in questions_in(document):
        if len(question.candidates) < least:
            message = f"the reward {place.type} compares {least} or more candidates, but the question has only "
            hint = (
                f"add the other answers, for example `candidates: [{question.candidates[0]}, ...]`, or use a reward for"
                " a single one, such as `reward: {type: answer_likelihood}`"
            )
            at = (*path, "candidates" if document.nearest((*path, "candidates"))[1] else "answer")
            problems.append(problem_at(document, at, f"{message}{listed(question.candidates)}", hint=hint))
    return problems


def _params_problems(error: ValidationError, plugin: LoadedPlugin, place: PluginPlace, document: Node) -> list[Problem]:
    """The problems of a plugin's parameters; those filled in by a preset are reported as the preset's mistake."""
    filled_in = set(plugin.preset) - set(place.params)
    faults = [details for details in error.errors() if details["loc"] and details["loc"][0] in filled_in]
    if not faults:
        return problems_from(error, plugin.cls.Params, document, place.path, also=place.own_keys)
    causes = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
    message = f"{plugin.entry} is a preset with invalid parameters: {causes}"
    hint = f"run `pip install --upgrade {plugin.entry.distribution}`"
    return [problem_at(document, f"{place.path}.type", message, hint=hint)]


def _remote_code_problems(place: PluginPlace, document: Node) -> list[Problem]:
    """One problem for each key `trust_remote_code` in a plugin's parameters, at any depth."""
    message = f"`{TRUST}` cannot be set: dualproc never runs code that comes with a model"
    hint = "use a model whose classes are part of the installed diffusers or transformers, see SECURITY.md"
    keys = [path for path, _ in from_data(place.params).walk() if path[-1] == TRUST]
    return [problem_at(document, split(place.path) + key, message, hint=hint) for key in keys]


def _raise_problems(problems: Iterable[Problem]) -> None:
    """Raise a SpecError if there are any problems."""
    if found := for_report(problems):
        raise SpecError(found)
