"""`extends`, `--set` and variants: which value is used, and its origin."""

from __future__ import annotations

from pathlib import Path

import pytest
from spec_texts import PLAIN, SPEC, load, only, write

from dualproc.errors import SpecError
from dualproc.spec import read_spec


def test_a_child_overrides_key_by_key_and_replaces_lists(tmp_path: Path) -> None:
    write(tmp_path, PLAIN + "train: {steps: 7, lora: {rank: 4, strength: 3}}\n", "base/base.yaml")
    child = "extends: base/base.yaml\nname: child\ntrain: {lora: {rank: 8}}\nprompts: {train: [a pig]}\n"
    loaded = load(tmp_path, child)
    spec = loaded.require()
    assert (spec.name, spec.train.steps, spec.train.lora.rank, spec.train.lora.strength) == ("child", 7, 8, 3)
    assert spec.prompts.train == ("a pig",)
    assert spec.prompts.eval == ("an owl",)
    assert loaded.origins["train.lora.rank"] == f"{tmp_path / 'spec.yaml'}:3"
    assert loaded.origins["train.lora.strength"] == f"{tmp_path / 'base' / 'base.yaml'}:5"
    assert "train.lora.alpha" not in loaded.origins
    assert "extends" not in loaded.origins


def test_a_changed_type_drops_the_old_parameters(tmp_path: Path) -> None:
    write(tmp_path, PLAIN + "anchor: {type: base_denoise, weight: 3, t: 0.3}\nreward: {type: choice, k: 1}\n", "b.yaml")
    spec = load(tmp_path, "extends: b.yaml\nanchor: {type: base_image}\nreward: {type: choice, j: 2}\n").require()
    assert spec.anchor is not None
    assert (spec.anchor.type, spec.anchor.weight, spec.anchor.params) == ("base_image", 1.0, {})
    assert spec.reward.params == {"k": 1, "j": 2}


def test_a_chain_of_three_files_and_null_to_remove_a_value(tmp_path: Path) -> None:
    write(tmp_path, PLAIN + "anchor: {type: base_denoise}\nreferee: {type: other}\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\nanchor: null\n", "b.yaml")
    spec = load(tmp_path, "extends: b.yaml\ndescription: third\n").require()
    assert (spec.description, spec.anchor, spec.referee and spec.referee.type) == ("third", None, "other")


def test_mistakes_of_parent_and_child_are_reported_together(tmp_path: Path) -> None:
    parent = write(tmp_path, PLAIN + "train: {setps: 3}\n", "base.yaml")
    problems = load(tmp_path, "extends: base.yaml\nnaem: x\n").problems
    assert [(p.source, p.line, p.hint) for p in problems] == [
        (str(parent), 5, "did you mean `steps`?"),
        (str(tmp_path / "spec.yaml"), 2, "did you mean `name`?"),
    ]


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("../outside.yaml", "is outside the folder"),
        ("link/spec.yaml", "is outside the folder"),
        ("/etc/spec.yaml", "is not a relative path"),
        ("https://example.org/spec.yaml", "is not a relative path"),
        ("spec.yaml", "in a cycle"),
        ("cycle.yaml", "in a cycle"),
        ("bse.yaml", "no such file"),
        ("folder", "this is a folder"),
        ("[a.yaml, b.yaml]", "expected the name of a spec file"),
        ('"a\\0.yaml"', "is not a valid file name"),
    ],
)
def test_an_invalid_extends_is_rejected(tmp_path: Path, extends: str, message: str) -> None:
    home = tmp_path / "home"
    write(tmp_path, PLAIN, "outside.yaml")
    write(home, "extends: spec.yaml\n", "cycle.yaml")
    write(home, PLAIN, "base.yaml")
    (home / "folder").mkdir()
    (home / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    write(tmp_path, PLAIN, "elsewhere/spec.yaml")
    problem = only(load(home, f"name: child\nextends: {extends}\n"))
    assert message in problem.message
    first = "cycle.yaml" if extends == "cycle.yaml" else "spec.yaml"
    assert (problem.source, problem.path) == (str(home / first), "extends")
    if extends == "bse.yaml":
        assert (problem.line, problem.column, problem.hint) == (2, 10, "did you mean `base.yaml`?")


def test_overrides_set_any_value_and_the_last_one_is_used(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        SPEC,
        "train.steps=3",
        "train.steps=5",
        "visual_prompt.layers.0.width=0.03",
        "visual_prompt.layers.0.color=#ff0000",
        "question.template=Is it: {subject}?",
        "evaluation.seeds=2",
        'description="12"',
        "prompts.eval=[a hen, an elk]",
        "referee=null",
        "train.stop=null",
        variant="thin",
    )
    spec = loaded.require()
    assert spec.visual_prompt is not None
    params = spec.visual_prompt.layers[0].params
    assert (params["width"], params["color"], params["from"]) == (0.03, "#ff0000", [0, 1])
    assert (spec.train.steps, spec.evaluation.seeds, spec.description) == (5, 2, "12")
    assert spec.questions[0].template == "Is it: {subject}?"
    assert spec.prompts.eval == ("a hen", "an elk")
    assert spec.referee is None
    assert loaded.origins["train.steps"] == "--set train.steps"


def test_an_override_is_applied_before_the_variant(tmp_path: Path) -> None:
    spec = load(tmp_path, SPEC, "variants.thin.width=0.5", variant="thin").require()
    assert spec.scorers[0].params == {"target": 0.5}


@pytest.mark.parametrize(
    ("overrides", "params"),
    [
        (["reward.type=choice"], {}),
        (["reward.type=choice", "reward.k=2"], {"k": 2}),
        (["reward.k=2", "reward.type=choice"], {"k": 2}),
        (["reward.type=rating"], {"scale": 3}),
        (["reward={type: choice, j: 4}"], {"j": 4}),
        (["reward.deep.x=1", "reward.type=choice"], {"deep": {"x": 1}}),
    ],
)
def test_an_overridden_type_keeps_only_overridden_parameters(
    tmp_path: Path, overrides: list[str], params: object
) -> None:
    text = PLAIN + "reward: {type: rating, scale: 3}\n"
    assert load(tmp_path, text, *overrides).require().reward.params == params


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("train..steps=3", "expected KEY=VALUE"),
        ("name.first=x", "`first` cannot be set inside the string 'lines'"),
        ("visual_prompt.layers.1.width=3", "there is no item 1: the list has 1 item, counted from 0"),
        ("visual_prompt.layers.x.width=3", "there is no item x"),
        ("train.lr=[1, 2", "not valid YAML"),
        ("train.lr={a: 1, a: 2}", "duplicate key `a`"),
        ("extends=base.yaml", "`extends` cannot be set with `--set`"),
        ("train.steps=x", "expected an integer, found the string 'x'"),
        ("train.setps=3", "unknown key `setps`"),
    ],
)
def test_an_invalid_override_is_rejected(tmp_path: Path, override: str, message: str) -> None:
    problem = only(load(tmp_path, SPEC, override, variant="thin"))
    assert message in problem.message
    assert problem.source == f"--set {override.partition('=')[0]}"
    assert problem.text == override


def test_a_variant_fills_values_and_parts_of_strings(tmp_path: Path) -> None:
    loaded = load(tmp_path, SPEC)
    assert (loaded.spec, loaded.problems, loaded.variants) == (None, (), ("thin", "thick"))
    assert loaded.document.plain()["scorers"][0]["target"] == "{width}"
    thin = loaded.for_variant("thin")
    spec = thin.require()
    assert spec.variant == "thin"
    assert spec.scorers[0].params["target"] == 0.016
    assert spec.description == "Lines of 0.016."
    assert spec.questions[0].template == "Is the line of {subject} 0.016 wide?"
    assert spec.variants["thick"] == {"width": 0.042}
    assert thin.origins["visual_prompt.layers.0.width"] == f"{tmp_path / 'spec.yaml'}:18"
    assert thin.for_variant("thick") == loaded.for_variant("thick")
    assert [each.variant for each in loaded.each()] == ["thin", "thick"]
    assert thin.each() == (thin,)


def test_a_placeholder_alone_takes_the_type_of_its_value(tmp_path: Path) -> None:
    text = PLAIN.replace("{prompt}?", "{colors} in {prompt}?") + (
        "variants: {a: {colors: [red, blue], shift: 0.1, on: true}}\n"
        'visual_prompt: {jitter: {x: [0, "{shift}"]}, layers: [{type: swatches, colors: "{colors}", on: "{on}"}]}\n'
    )
    spec = load(tmp_path, text, variant="a").require()
    assert spec.visual_prompt is not None
    assert spec.visual_prompt.jitter.x == (0, 0.1)
    assert spec.visual_prompt.layers[0].params == {"colors": ["red", "blue"], "on": True}
    assert spec.questions[0].template == "Is it red, blue in {prompt}?"


def test_a_missing_choice_of_variant_is_an_error_only_when_a_spec_is_required(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"spec\.yaml:17:1: variants: no variant is chosen(?s:.*)choose one of: thin, thick"
    ):
        load(tmp_path, SPEC).require()


@pytest.mark.parametrize("text", [SPEC, PLAIN])
def test_an_unknown_variant_is_rejected(tmp_path: Path, text: str) -> None:
    problem = only(load(tmp_path, text, variant="thn"))
    assert problem.message == "unknown variant `thn`"
    assert problem.hint == ("did you mean `thin`?" if text is SPEC else "the spec has no variants")


def test_a_resolved_spec_keeps_its_variant(tmp_path: Path) -> None:
    fixed = SPEC + "variant: thick\n"
    assert load(tmp_path, fixed).require().variant == "thick"
    assert load(tmp_path, fixed, variant="thick").require().variant == "thick"
    assert load(tmp_path, SPEC, "variant=thin").require().scorers[0].params == {"target": 0.016}
    assert (
        "fixed to the variant `thick`, so `thin` cannot be chosen"
        in only(load(tmp_path, fixed, variant="thin")).message
    )
    problem = only(load(tmp_path, SPEC + "variant: thic\n"))
    assert (problem.line, problem.hint) == (24, "did you mean `thick`?")


def test_mistakes_of_all_variants_are_found_without_a_choice(tmp_path: Path) -> None:
    text = SPEC.replace("jitter: {y", 'opacity: "{width}"\n  jitter: {y').replace("0.042", "1.5").replace("0.016", "-1")
    problems = load(tmp_path, text).problems
    assert [(p.path, p.line) for p in problems] == [("visual_prompt.opacity", 19), ("visual_prompt.opacity", 20)]


def test_all_variants_must_set_the_same_names(tmp_path: Path) -> None:
    problem = only(load(tmp_path, SPEC.replace("thin: {width: 0.016}", "thin: {color: red, width: 0.016}")))
    assert (problem.path, problem.message) == ("variants.thick", "the variant has no value for `color`")


@pytest.mark.parametrize(
    ("old", "new", "path", "hint"),
    [
        ("Lines of {width}", "Lines of {widht}", "description", "did you mean `width`?"),
        ('width: "{width}"', 'width: "{widht}"', "visual_prompt.layers.0.width", "did you mean `width`?"),
        ('target: "{width}"', 'target: "a {widht} b"', "scorers.0.target", "did you mean `width`?"),
        ("{prompt}?", "{prmpt}?", "preserve.template", "did you mean `prompt`?"),
        ("{subject} {width} wide", "{subjekt} {width} wide", "question.template", "did you mean `subject`?"),
        ("{subject} {width} wide", "{subject} {wdth} wide", "question.template", "did you mean `width`?"),
        ("cartoon of {subject}", "cartoon of {subjet}", "prompts.template", "did you mean `subject`?"),
        ("weight: 2", 'weight: "{widht}"', "anchor.weight", "did you mean `width`?"),
        ("answer: Yes", "answer: Yes\n  suffix: Say {prompt}.", "question.suffix", "known: width"),
        ("weight: 2", "weight: {width}", "anchor.weight", 'put the placeholder in quotes: "{width}"'),
    ],
)
def test_an_unknown_placeholder_is_rejected(tmp_path: Path, old: str, new: str, path: str, hint: str) -> None:
    problem = only(load(tmp_path, SPEC.replace(old, new)))
    assert (problem.path, problem.hint) == (path, hint)
    assert problem.line is not None


def test_a_placeholder_is_rejected_where_variants_are_not_filled_in(tmp_path: Path) -> None:
    problem = only(load(tmp_path, SPEC.replace("lr: 1e-4", 'lr: "{width}"')))
    assert problem.message == "the placeholder {width} is not allowed here"
    assert problem.hint is not None
    assert "visual_prompt" in problem.hint


def test_placeholders_outside_the_filled_sections_are_plain_text(tmp_path: Path) -> None:
    spec = load(tmp_path, PLAIN + 'judge: {type: x, template: "{question} {width}"}\n').require()
    assert spec.judge.params == {"template": "{question} {width}"}


def test_a_variant_must_not_use_the_name_of_a_field(tmp_path: Path) -> None:
    problems = load(tmp_path, PLAIN + "variants: {a: {subject: a cow}}\n").problems
    assert [p.message for p in problems if p.path == "variants.a.subject"] == [
        "`subject` is already a field of the prompts"
    ]


def test_an_unreadable_file_has_no_variants(tmp_path: Path) -> None:
    loaded = load(tmp_path, "a: [")
    assert loaded.for_variant("thin") is loaded
    with pytest.raises(SpecError, match="1 mistake"):
        loaded.require()
    assert read_spec(write(tmp_path, PLAIN)).variants == ()
