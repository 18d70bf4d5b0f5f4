"""dualproc.testing: correct plugins pass, the built-in ones too, and each mistake has its own finding."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import small_judges
import torch
from pydantic import ConfigDict, Field, create_model
from small_pipelines import FAMILIES, saved
from wrong_plugins import RIGHT, WRONG, Oracle, Redness, Sketcher, Wrong

from dualproc import registry
from dualproc.errors import DualprocError, PluginError
from dualproc.kit.pretrained import PretrainedParams
from dualproc.protocols import KINDS
from dualproc.testing import CHECKS, ConformanceError, check_plugin, check_scorer
from dualproc.types import Prompt

pytest_plugins = ["dualproc.testing.fixtures"]

SAMPLES = str(Path(registry.__file__).parent / "weights" / "samples.png")
BUILT_IN: list[tuple[str, str, dict[str, Any]]] = [
    ("rewards", "answer_likelihood", {}),
    ("rewards", "yes_no_gap", {}),
    ("visual_prompts", "line", {"from": [0, 0.3], "to": [1, 0.3], "width": 0.02}),
    ("visual_prompts", "line", {"from": [0.1, 0.3], "to": [0.8, 0.7], "width": 0.011, "arrow": True}),
    ("visual_prompts", "points", {"points": [{"at": [0.2, 0.3], "label": "A"}]}),
    ("visual_prompts", "swatches", {"colors": ["red", "blue", "green"]}),
    ("visual_prompts", "image", {"path": SAMPLES, "size": [0.3, 0.3]}),
    ("visual_prompts", "text", {"text": "snow here", "at": [0.5, 0.5]}),
    ("visual_prompts", "box", {"from": [0.1, 0.1], "to": [0.4, 0.5]}),
    ("anchors", "base_denoise", {}),
    ("anchors", "base_answers", {"questions": ["Is the sky blue?", "Is there snow on the ground?"]}),
    ("anchors", "base_colors", {}),
    ("anchors", "base_image", {"blur": 0.05}),
    ("anchors", "base_image", {"norm": "l1"}),
    ("anchors", "base_features", {}),
    ("anchors", "base_layout", {}),
    ("scorers", "line_weight", {"target": 0.04}),
    ("scorers", "palette", {"colors": ["red", "blue"]}),
    ("scorers", "region_color", {"region": "sky", "color": "blue"}),
    ("scorers", "hue", {"region": "sky", "target": 200.0}),
    ("scorers", "tone", {"of": "chroma", "low": 0.0, "high": 8.0}),
    ("scorers", "kept", {"least": 0.5}),
    ("scorers", "horizon", {"target": 0.5}),
    ("scorers", "depth_order", {"a": [0.25, 0.8], "b": [0.75, 0.8], "nearer": "a"}),
    ("scorers", "composition", {"element": "upright", "x": 0.3}),
    ("generators", "tiny", {}),
    ("judges", "tiny", {}),
    ("judges", "tiny-referee", {}),
]


def extras(kind: str) -> dict[str, Any]:
    """A fast generator for anchors, because the shipped one is slow."""
    return {"generator": Sketcher(Sketcher.Params())} if kind == "anchors" else {}


def findings(check: Callable[[], None]) -> tuple[str, ...]:
    with pytest.raises(ConformanceError) as caught:
        check()
    return caught.value.findings


# the built-in plugins


@pytest.mark.parametrize(
    ("kind", "name", "params"), BUILT_IN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_built_in_plugins_conform(kind: str, name: str, params: Mapping[str, Any]) -> None:
    own = extras(kind) if name != "base_denoise" else {}  # which needs a generator that denoises
    check_plugin(kind, f"dualproc/{name}", params, **own)


def test_every_built_in_plugin_is_checked() -> None:
    """Presets of large models and their classes are checked with small models below.

    Scorers by pretrained models are checked in tests/test_pretrained_scorers.py.
    """
    checked = {(kind, name) for kind, name, _ in BUILT_IN}
    for kind in KINDS:
        for entry in registry.entries(kind):
            if entry.distribution == "dualproc" and kind not in ("generators", "judges"):
                params = registry.load(kind, f"dualproc/{entry.name}").cls.Params
                assert (kind, entry.name) in checked or issubclass(params, PretrainedParams)


def test_a_small_pipeline_of_two_steps_conforms(check_generator: Callable[..., None]) -> None:
    params = {"model": saved("sd").name, "height": 32, "width": 32, "steps": 2, **FAMILIES["sd"].params}
    check_generator("diffusers", params, prompts=["a cat", "a big red house on the hill"])


@pytest.mark.parametrize("family", ["qwen2.5-vl", "paligemma2"])
def test_a_small_judge_conforms(family: str, tmp_path: Path, check_judge: Callable[..., None]) -> None:
    """One family that uses the cache, and one that cannot."""
    folder = small_judges.save(family, tmp_path / family)
    given = {**registry.load("judges", family).preset, "model": str(folder), "dtype": "float32", "device": "cpu"}
    check_judge(family, given, questions=["Is the line red?", "Is it dark?"])


# plugins of other packages


@pytest.mark.parametrize(("kind", "cls", "params"), RIGHT)
def test_a_correct_plugin_passes(kind: str, cls: type[Any], params: Mapping[str, Any]) -> None:
    check_plugin(kind, cls, params, **extras(kind))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.kind}-{wrong.cls.__name__}")
def test_a_mistake_has_its_finding_and_no_other(wrong: Wrong) -> None:
    found = findings(lambda: check_plugin(wrong.kind, wrong.cls, wrong.params, **extras(wrong.kind)))
    assert [finding for finding in found if re.search(wrong.sentence, finding)]
    assert [finding for finding in found if not re.search(f"{wrong.sentence}|{wrong.also}", finding)] == []


MEMORY_OPTIONS: list[tuple[str, Any, str]] = [
    ("device", int, "integer; expected string"),
    ("device", str | None, "string or null; expected string"),
    ("quantize", bool, "boolean; expected string or null"),
    ("offload", str, "string; expected boolean"),
    ("checkpointing", int, "integer; expected boolean"),
    ("reward_vae", bool, "boolean; expected string or null"),
    ("height", float, "number; expected integer or null"),
    ("width", Any, "anything; expected integer or null"),
]


@pytest.mark.parametrize(("name", "annotation", "types"), MEMORY_OPTIONS)
def test_a_parameter_with_the_name_of_a_memory_option_has_its_type(name: str, annotation: Any, types: str) -> None:
    params = create_model(
        "Params", __config__=ConfigDict(extra="forbid"), **{name: (annotation, Field(None, description="An option."))}
    )
    for kind, base in (("generators", Sketcher), ("judges", Oracle)):
        cls = type("Optional", (base,), {"Params": params, "__doc__": "A plugin with an option."})
        (found,) = findings(lambda kind=kind, cls=cls: check_plugin(kind, cls))
        assert found.startswith(
            f"the parameter `{name}` is {types}, because dualproc reads `{name}` as a memory option"
        )


def test_other_kinds_may_use_the_names_of_memory_options_freely() -> None:
    class Scaled(Redness):
        """Has parameters that are not memory options."""

        class Params(Redness.Params):
            width: float = Field(0.5, description="A length.")
            device: int = Field(1, description="A number.")

    check_scorer(Scaled)


def test_every_kind_has_a_check_and_wrong_plugins() -> None:
    assert tuple(CHECKS) == KINDS
    for kind in KINDS:
        assert sum(wrong.kind == kind for wrong in WRONG) >= 5


def test_all_mistakes_are_reported_at_once() -> None:
    class Careless(Redness):
        unit, better = "", "more"

        def score(self, images: torch.Tensor, context: Any) -> torch.Tensor:
            return super().score(images, context) / images.mean()

    with pytest.raises(ConformanceError) as caught:
        check_scorer(Careless)
    message = str(caught.value)
    assert message.startswith(
        "scorer test_all_mistakes_are_reported_at_once.<locals>.Careless does not follow its protocol:"
    )
    assert message.count("\n  - ") == len(caught.value.findings) == 5
    for part in ("has no docstring", "unit is ''", "better is 'more'", "image 0 gets different values alone and in"):
        assert part in message
    assert isinstance(caught.value, AssertionError)


def test_images_and_prompts_of_the_author_are_used() -> None:
    params = {"region": "ground", "field": "color"}
    found = findings(lambda: check_scorer("region_color", params))
    assert "has no field `color`" in found[0]
    plain = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.01 + 0.5
    prompts = [Prompt("a cat", {"color": "gray"}), Prompt("a dog", {"color": "blue"})]
    check_scorer("region_color", params, images=plain, prompts=prompts)


@pytest.mark.parametrize(
    ("kind", "argument", "message"),
    [
        ("judges", {"questions": ("one",)}, "this check needs 2 or more different `questions`, got 1: ['one']"),
        ("judges", {"questions": ("one", "one")}, "got 2, of which 1 differ"),
        ("judges", {"questions": "one?"}, "expected a list for `questions`, got str 'one?'"),
        ("judges", {"candidates": ("Yes",)}, "2 or more different `candidates`, got 1"),
        ("judges", {"sizes": ()}, "1 or more different `sizes`, got 0"),
        ("generators", {"prompts": ["a cat"]}, "2 or more different `prompts`, got 1"),
        ("generators", {"seeds": [3]}, "this check needs 2 different `seeds`, got 1"),
        ("anchors", {"prompts": [*"abcde"]}, "this check needs 2 to 4 different `prompts`, got 5"),
        ("rewards", {"cases": ()}, "1 or more different `cases`, got 0"),
        ("visual_prompts", {"sizes": ()}, "1 or more different `sizes`, got 0"),
        ("scorers", {"images": torch.rand(1, 3, 8, 8)}, "expected `images` [B, 3, H, W] of 2 or more images"),
        ("scorers", {"images": torch.rand(2, 3, 8, 8), "prompts": []}, "expected one prompt for each of 2 images"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_a_check_are_errors(kind: str, argument: dict[str, Any], message: str) -> None:
    with pytest.raises(DualprocError) as caught:
        check_plugin(kind, "any", **argument)
    assert message in str(caught.value)


def test_unknown_names_and_kinds_are_plugin_errors() -> None:
    with pytest.raises(PluginError, match="no scorer plugin is called 'redness'"):
        check_scorer("redness")
    with pytest.raises(PluginError, match="unknown kind of plugin: 'scorer'"):
        check_plugin("scorer", Redness)


def test_a_check_restores_the_random_state() -> None:
    torch.manual_seed(7)
    check_scorer(Redness)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))


def test_the_fixtures_are_the_checks(request: pytest.FixtureRequest) -> None:
    for check in [*CHECKS.values(), check_plugin]:
        assert request.getfixturevalue(check.__name__) is check


def test_importing_the_checks_does_not_import_torch_or_pytest() -> None:
    code = "import sys, dualproc.testing; print({'torch', 'pytest', 'PIL', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_missing_parameters_are_reported() -> None:
    found = findings(lambda: check_plugin("scorers", "palette"))
    assert found == ("the parameters {} of this check are not valid: colors: Field required",)


def test_a_plugin_that_fails_later_in_a_check_is_reported() -> None:
    class Exhausted(Sketcher):
        """Draws only twice."""

        drawn = 0

        def noise(self, seeds: Any) -> torch.Tensor:
            self.drawn += 1
            if self.drawn > 2:
                raise RuntimeError("out of noise")
            return super().noise(seeds)

    assert findings(lambda: check_plugin("generators", Exhausted)) == ("sample raised RuntimeError: out of noise",)
