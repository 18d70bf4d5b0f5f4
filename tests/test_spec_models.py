"""TaskSpec: accepted values, rejected values with their messages, and the results of its methods."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError
from spec_texts import PLAIN, SPEC, load, only

from dualproc.errors import Problem, SpecError
from dualproc.spec import (
    AnchorRef,
    PluginPlace,
    PluginRef,
    Prompts,
    QuestionSpec,
    TaskSpec,
    problems_from,
    read_spec,
    spec_from_dict,
    to_yaml,
)
from dualproc.spec.fields import SpecModel
from dualproc.types import Prompt, Question

DATA: dict[str, Any] = {
    "name": "plain",
    "prompts": {"train": ["a cat", "a dog"], "eval": ["an owl"]},
    "question": {"template": "Is it {prompt}?"},
}


def mistakes(data: dict[str, Any], **more: Any) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        spec_from_dict({**data, **more})
    return list(caught.value.problems)


def test_defaults() -> None:
    spec = TaskSpec(**DATA)
    assert (spec.reward.type, spec.generator.type, spec.judge.type) == ("yes_no_gap", "tiny", "tiny")
    assert (spec.referee, spec.preserve, spec.visual_prompt, spec.anchor) == (None, None, None, None)
    train = spec.train
    assert (train.steps, train.batch, train.lr, train.weight_decay, train.clip, train.seed) == (100, 4, 1e-4, 0, 1, 0)
    assert (train.lora.rank, train.lora.alpha, train.lora.strength, train.lora.targets) == (16, 8, 5, None)
    assert (train.stop, train.checkpoint_every, train.max_skipped) == (None, 25, 5)
    assert (spec.evaluation.seeds, spec.evaluation.batch) == (11, 16)


def test_python_and_file_give_the_same_spec(tmp_path: Path) -> None:
    from_file = load(tmp_path, PLAIN).require()
    assert TaskSpec(**DATA) == TaskSpec.model_validate(DATA) == spec_from_dict(DATA) == from_file
    prompts = Prompts(train=("a cat", "a dog"), eval=("an owl",))
    assert TaskSpec(name="plain", prompts=prompts, question=QuestionSpec(template="Is it {prompt}?")) == from_file
    assert spec_from_dict(from_file.model_dump()) == from_file


def test_a_dict_with_variants() -> None:
    data = {**DATA, "variants": {"a": {"x": 1}, "b": {"x": 2}}, "reward": {"type": "rating", "target": "{x}"}}
    assert spec_from_dict(data, variant="b").reward.params == {"target": 2}
    with pytest.raises(SpecError, match=r"no variant is chosen(?s:.*)choose one of: a, b"):
        spec_from_dict(data)
    with pytest.raises(SpecError, match="no variant is chosen"):
        TaskSpec.model_validate(data)


@pytest.mark.parametrize("build", [TaskSpec.model_validate, spec_from_dict, lambda data: TaskSpec(**data)])
def test_errors_in_python_have_the_same_places_and_messages(build: Callable[[dict[str, Any]], TaskSpec]) -> None:
    wrong = {"reward": {"type": "x", "y": {"z": float("nan")}}, "description": "{w}", "trian": {}}
    with pytest.raises(SpecError, match="3 mistakes in the spec:") as caught:
        build({**DATA, **wrong})
    assert {problem.path: problem.message for problem in caught.value.problems} == {
        "reward.y.z": "expected a string or a finite number, found nan",
        "description": "unknown placeholder {w}",
        "trian": "unknown key `trian`",
    }


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"name": "a b"}, "name", "expected a name of letters, digits, `_` and `-`, found the string 'a b'"),
        ({"name": "a\n"}, "name", "expected a name of letters, digits, `_` and `-`, found the string 'a\\n'"),
        ({"name": "../a"}, "name", "expected a name of letters, digits, `_` and `-`, found the string '../a'"),
        ({"schema_version": 2}, "schema_version", "expected 1, found 2"),
        ({"schema_version": True}, "schema_version", "expected 1, found true"),
        ({"nmae": 1}, "nmae", "unknown key `nmae`"),
        ({"prompts": {"train": ["a"]}}, "prompts.eval", "`eval` is missing"),
        ({"prompts": {"train": [], "eval": ["a"]}}, "prompts.train", "expected 1 or more items, found an empty list"),
        ({"prompts": {"train": ["a", "a"], "eval": ["b"]}}, "prompts.train.1", "this prompt is in the list twice"),
        ({"prompts": {"train": ["a"], "eval": ["b", "a"]}}, "prompts.eval.1", "'a' is also a training prompt"),
        ({"prompts": {"train": [7], "eval": ["a"]}}, "prompts.train.0",
         "expected a string or a mapping of the template's fields, found 7"),
        ({"prompts": {"train": [" "], "eval": ["a"]}}, "prompts.train.0",
         "expected a string that is not blank, found the string ' '"),
        ({"prompts": {"train": [{"subject": 7}], "eval": ["a"]}}, "prompts.train.0.subject",
         "expected a string, found 7"),
        ({"prompts": {"train": [{"prompt": "x"}], "eval": ["a"]}}, "prompts.train.0.prompt",
         "the name `prompt` is reserved for the filled template"),
        ({"prompts": {"template": "{a} {b}", "train": [{"a": "x", "b": "y"}], "eval": [{"a": "x"}]}},
         "prompts.template", "not every prompt has the field `b`"),
        ({"question": []}, "question", "expected 1 or more items, found an empty list"),
        ({"question": "Is it?"}, "question", "expected a mapping, found the string 'Is it?'"),
        ({"question": {"template": "Q", "answer": "Yes", "candidates": ["A", "B"]}}, "question.candidates",
         "the wanted answer 'Yes' is not one of the candidates"),
        ({"prompts": {**DATA["prompts"], "template": "a cat"}}, "prompts.template",
         "the template has no placeholder, so all prompts are the same"),
        ({"question": {"template": "Is it {prompt?"}}, "question.template",
         "the placeholder {prompt has only one brace"),
        ({"question": {"template": "Q", "answer": []}}, "question.answer",
         "expected 1 or more items, found an empty list"),
        ({"question": {"template": "Q", "candidates": ["Yes", "Yes"]}}, "question.candidates",
         "a candidate is in the list twice"),
        ({"question": [{"template": "Q"}, {"template": "Q", "answer": "three"}]}, "question",
         "all questions need the same number of candidates, found 2, 1"),
        ({"question": [{"template": "Q"}, {"template": "{x}"}]}, "question.1.template", "unknown placeholder {x}"),
        ({"question": [{"template": "Q"}, {"answer": "No"}]}, "question.1.template", "`template` is missing"),
        ({"generator": "tiny"}, "generator", "expected a mapping, found the string 'tiny'"),
        ({"reward": {"scale": 1}}, "reward.type", "`type` is missing"),
        ({"reward": {"type": "x", "f": print}}, "reward.f",
         "expected a string or a finite number, found <built-in function print>"),
        ({"anchor": {"type": "x", "weight": -1}}, "anchor.weight", "expected a number of at least 0.0, found -1"),
        ({"anchor": {"type": "x", "weight": float("inf")}}, "anchor.weight",
         "expected a string or a finite number, found inf"),
        ({"visual_prompt": {"layers": []}}, "visual_prompt.layers", "expected 1 or more items, found an empty list"),
        ({"visual_prompt": {"layers": [{"type": "x"}], "blend": "solidd"}}, "visual_prompt.blend",
         "expected 'solid' or 'alpha', found the string 'solidd'"),
        ({"visual_prompt": {"layers": [{"type": "x"}], "opacity": True}}, "visual_prompt.opacity",
         "expected a number, found true"),
        ({"visual_prompt": {"layers": [{"type": "x"}], "jitter": {"x": [1, 0]}}}, "visual_prompt.jitter.x",
         "the lower bound is above the upper bound"),
        ({"visual_prompt": {"layers": [{"type": "x"}], "jitter": {"x": [1]}}}, "visual_prompt.jitter.x.1",
         "item 1 of the list is missing (counted from 0)"),
        ({"variants": {"a": {"b": {"c": 1}}}, "variant": "a"}, "variants.a.b",
         "expected a single value or a list of values, found a mapping"),
        ({"variants": {"a": {"b c": 1}}, "variant": "a"}, "variants.a.b c",
         "expected a name of letters, digits and `_`, found the string 'b c'"),
        ({"variant": "a"}, "variant", "unknown variant `a`"),
        ({"train": {"steps": 0}}, "train.steps", "expected a number of at least 1, found 0"),
        ({"train": {"steps": "5"}}, "train.steps", "expected an integer, found the string '5'"),
        ({"train": {"steps": True}}, "train.steps", "expected an integer, found true"),
        ({"train": {"lr": float("nan")}}, "train.lr", "expected a finite number, found nan"),
        ({"train": {"lr": 0}}, "train.lr", "expected a number above 0.0, found 0"),
        ({"train": {"stop": {}}}, "train.stop", "early stopping needs a referee"),
        ({"train": {"lora": {"targets": []}}}, "train.lora.targets", "expected 1 or more items, found an empty list"),
        ({"evaluation": {"seeds": None}}, "evaluation.seeds", "expected an integer, found no value (null)"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_path(change: dict[str, Any], path: str, message: str) -> None:
    assert [(problem.path, problem.message) for problem in mistakes(DATA, **change)] == [(path, message)]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"trian": {}}, "did you mean `train`?"),
        ({"train": {"lora": {"rnak": 1}}}, "did you mean `rank`?"),
        ({"question": [{"template": "Q", "answr": "Yes"}]}, "did you mean `answer`?"),
        ({"visual_prompt": {"layers": [{"type": "x"}], "jitter": {"z": [0, 1]}}}, "known: x, y"),
        ({"generator": "tiny"}, "did you mean `{type: tiny}`?"),
        ({"judge": ["tiny"]}, "did you mean `{type: tiny}`?"),
        ({"question": "Is it?"}, 'write a question as `{template: "Is it?"}`'),
        ({"question": ["Is it?"]}, 'write a question as `{template: "Is it?"}`'),
        ({"preserve": 'Is it "it"?'}, 'write a question as `{template: "..."}`'),
        ({"prompts": {**DATA["prompts"], "template": "a cartoon of {subject"}}, "write {subject}"),
        ({"prompts": {**DATA["prompts"], "template": "a cartoon"}}, "write `{subject}` in it"),
        (
            {
                "question": {"template": "Is it a subject} or a {thing}?"},
                "prompts": {
                    "template": "{subject} and {thing}",
                    "train": [{"subject": "a", "thing": "b"}],
                    "eval": [{"subject": "c", "thing": "d"}],
                },
            },
            "write {subject}",
        ),
        (
            {"question": {"template": "Q", "answer": ["Yes", "No"], "candidates": ["Yes", "No"]}},
            "a wording of the wanted answer cannot be a candidate of its own",
        ),
        ({"train": "fast"}, None),
        ({"question": {"template": "Q", "answer": True}}, "put it in quotes"),
        (
            {"prompts": {"train": ["a"]}},
            "Held-out prompts for the evaluation, written like `train`; never used in training.",
        ),
    ],
)
def test_a_mistake_has_a_hint(change: dict[str, Any], hint: str | None) -> None:
    assert [problem.hint for problem in mistakes(DATA, **change)] == [hint]


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    text = SPEC.replace("name: lines", "name: my lines").replace("color: red", "colour: {red}")
    text = text.replace("lr: 1e-4", "lr: fast").replace("lora:", "lroa:").replace("- {type: line", "- {tpye: line")
    text = text.replace("{prompt}?", "{pormpt}?") + "zzz: 1\n"
    problems = load(tmp_path, text, variant="thin").problems
    assert [(p.path, p.line) for p in problems] == [
        ("name", 2),
        ("preserve.template", 11),
        ("visual_prompt.layers.0.type", 16),
        ("train.lr", 23),
        ("train.lroa", 23),
        ("zzz", 24),
    ]
    assert str(problems[-1]) == f"{tmp_path / 'spec.yaml'}:24:1: zzz: unknown key `zzz`\n    zzz: 1\n    ^\n    " + (
        "known: schema_version, name, sliders, description, prompts, question, preserve, reward, visual_prompt, "
        "variants, variant, generator, judge, referee, scorers, anchor, train, evaluation"
    )


SINGLE = {
    "name: lines": ("name: my lines", "expected a name of letters"),
    "a cartoon of {subject}": ("a cartoon of {subjekt}", "unknown placeholder {subjekt}"),
    "[a cat, a dog]": ("[a cat, a dog, 7]", "found 7"),
    "[an owl]": ("[an owl, a dog]", "is also a training prompt"),
    "{width} wide?": ("{widht} wide?", "unknown placeholder {widht}"),
    "answer: Yes": ("answr: Yes", "unknown key `answr`"),
    "{prompt}?": ("{pormpt}?", "unknown placeholder {pormpt}"),
    "{type: yes_no_gap}": ('{type: yes_no_gap, x: "{colour}"}', "unknown placeholder {colour}"),
    "y: [-0.05, 0.02]": ("y: [0.05, 0.02]", "the lower bound is above the upper bound"),
    "color: red": ('color: "the {hue}"', "unknown placeholder {hue}"),
    "{type: other}": ("{}", "`type` is missing"),
    '"{width}"}]': ('"{width"}]', "the placeholder {width has only one brace"),
    "weight: 2": ("weight: -2", "expected a number of at least 0.0"),
    "lr: 1e-4": ("lr: fast", "expected a number"),
    "lora: {strength: 5}": ("lora: {strenght: 5}", "unknown key `strenght`"),
}
"""Mistakes in different places of SPEC: what is replaced, and the message."""
CONSEQUENCES = {frozenset(("a cartoon of {subject}", "[an owl]"))}
"""Without its field, the template gives no prompts that could be compared."""


@pytest.mark.parametrize("one", SINGLE)
def test_no_mistake_hides_another_one(one: str, tmp_path: Path) -> None:
    for pair in itertools.combinations(SINGLE, 2):
        if one not in pair or frozenset(pair) in CONSEQUENCES:
            continue
        text = SPEC
        for old in pair:
            assert old in text
            text = text.replace(old, SINGLE[old][0])
        found = "\n".join(map(str, load(tmp_path, text, variant="thin").problems))
        assert [SINGLE[old][1] for old in pair if SINGLE[old][1] not in found] == [], text


def test_a_missing_key_points_at_its_mapping(tmp_path: Path) -> None:
    problem = only(load(tmp_path, PLAIN.replace("template:", "suffix:").replace("{prompt}", "so")))
    assert (problem.path, problem.line, problem.column) == ("question.template", 4, 1)
    problem = only(load(tmp_path, "# comment\n" + PLAIN.replace("name: plain\n", "")))
    assert (problem.path, problem.line, problem.column) == ("name", 2, 1)


def test_mistakes_in_plugin_parameters_have_the_same_messages(tmp_path: Path) -> None:
    class Params(BaseModel, extra="forbid"):
        start: tuple[float, float] = Field(alias="from")
        to: tuple[float, float]
        width: float | list[float]
        color: str

    loaded = load(tmp_path, SPEC.replace('width: "{width}"', "widht: 1, width: wide"), variant="thin")
    place = next(place for place in loaded.plugins() if place.kind == "visual_prompts")
    with pytest.raises(ValidationError) as caught:
        Params.model_validate(place.params)
    problems = problems_from(caught.value, Params, loaded.document, place.path)
    assert [(p.path, p.message, p.hint, p.line) for p in problems] == [
        ("visual_prompt.layers.0.to", "`to` is missing", None, 16),
        ("visual_prompt.layers.0.width", "expected a number or a list, found the string 'wide'", None, 16),
        ("visual_prompt.layers.0.widht", "unknown key `widht`", "did you mean `width`?", 16),
    ]


def test_plugins_of_a_spec_with_mistakes_can_still_be_listed(tmp_path: Path) -> None:
    loaded = load(tmp_path, SPEC + "zzz: 1\n", variant="thin")
    assert loaded.spec is None
    assert loaded.plugins() == (
        PluginPlace("reward", "rewards", "yes_no_gap", {}),
        PluginPlace(
            "visual_prompt.layers.0", "visual_prompts", "line", {"from": [0, 1], "width": 0.016, "color": "red"}
        ),
        PluginPlace("referee", "judges", "other", {}),
        PluginPlace("scorers.0", "scorers", "line_weight", {"target": 0.016}),
        PluginPlace("anchor", "anchors", "base_denoise", {}),
    )
    side_effects = [f"evaluation.side_effects.{index}" for index in range(3)]
    paths = [place.path for place in load(tmp_path, PLAIN).require().plugins()]
    assert paths == ["reward", "generator", "judge", *side_effects]


def test_plugin_references_are_flat() -> None:
    ref = PluginRef.model_validate({"type": "line", "from": (0, 1), "params": {"type": "x"}})
    assert ref.params == {"from": [0, 1], "params": {"type": "x"}}
    assert ref.model_dump() == {"type": "line", "from": [0, 1], "params": {"type": "x"}}
    anchor = AnchorRef.model_validate({"type": "a", "weight": 2, "t": 0.3})
    assert (anchor.weight, anchor.params) == (2.0, {"t": 0.3})


def test_a_reference_that_contains_itself_is_rejected() -> None:
    loop: dict[str, Any] = {"type": "x"}
    loop["loop"] = loop
    with pytest.raises(ValidationError, match="nested more than 32 levels deep"):
        PluginRef.model_validate(loop)
    with pytest.raises(SpecError, match="nested more than 32 levels deep"):
        spec_from_dict({**DATA, "reward": loop})


def test_prompts_and_their_fields() -> None:
    prompts = Prompts(
        template="{thing}, {place}",
        train=({"thing": "a shelf", "place": "indoors", "ask": "Is it empty?"},),
        eval=({"thing": "a cup", "place": "outside", "ask": "Is it full?"},),
    )
    [prompt] = prompts.train_prompts()
    fields = {"thing": "a shelf", "place": "indoors", "ask": "Is it empty?"}
    assert prompt == Prompt("a shelf, indoors", {**fields, "prompt": "a shelf, indoors"})
    assert [prompt.text for prompt in prompts.eval_prompts()] == ["a cup, outside"]
    assert Prompts(train=("a cat",), eval=("a dog",)).train_prompts()[0].fields == {
        "subject": "a cat",
        "prompt": "a cat",
    }


def test_a_question_is_filled_for_a_prompt() -> None:
    prompt = Prompt("a cat, indoors", {"subject": "a cat"})
    question = QuestionSpec(template="Is {subject} in {prompt}?", answer="No")
    text = "Is a cat in a cat, indoors? Answer with Yes or No."
    assert question.for_prompt(prompt) == Question(text, ("Yes", "No"), 1)
    assert QuestionSpec(template="How many?", suffix="", answer="three").for_prompt(prompt) == Question(
        "How many?", ("three",), 0
    )
    with pytest.raises(SpecError, match=r"unknown placeholder \{subjekt\}(?s:.*)did you mean `subject`"):
        QuestionSpec(template="{subjekt}?").for_prompt(prompt)


def test_braces_that_are_not_a_placeholder_are_plain_text() -> None:
    spec = spec_from_dict({**DATA, "description": "{} {1} { a } {a b} {{"})
    assert spec.description == "{} {1} { a } {a b} {{"


def test_a_spec_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TaskSpec(**DATA).train.steps = 3  # type: ignore[misc]


def test_every_key_is_described() -> None:
    def models(model: type[BaseModel]) -> set[type[BaseModel]]:
        found = {model}
        for definition in model.__subclasses__():
            found |= models(definition)
        return found

    undescribed = [
        f"{m.__name__}.{key}" for m in models(SpecModel) for key, f in m.model_fields.items() if not f.description
    ]
    assert undescribed == []


def test_reading_a_spec_does_not_import_torch(tmp_path: Path) -> None:
    load(tmp_path, PLAIN)
    code = (
        "import sys; from dualproc.spec import read_spec, to_yaml; "
        f"to_yaml(read_spec({str(tmp_path / 'spec.yaml')!r}).require()); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_shipped_line_weight_spec() -> None:
    loaded = read_spec(Path(__file__).parents[1] / "specs" / "line_weight.yaml")
    assert (loaded.problems, loaded.variants) == ((), ("thin", "thick"))
    spec = loaded.for_variant("thick").require()
    assert spec.visual_prompt is not None
    assert spec.visual_prompt.layers[0].params["width"] == spec.scorers[0].params["target"] == 0.042
    assert (len(spec.prompts.train), len(spec.prompts.eval)) == (18, 6)
    assert to_yaml(spec).startswith("schema_version: 1\nname: line_weight\n")


def test_the_suffix_follows_from_the_candidates() -> None:
    def suffix(**question: Any) -> str:
        return QuestionSpec(template="Q", **question).suffix

    assert suffix() == suffix(answer="No") == suffix(candidates=("No", "Yes")) == "Answer with Yes or No."
    assert suffix(answer="red", candidates=("red", "green", "blue")) == "Answer with red, green or blue."
    assert suffix(answer="Pink") == suffix(suffix="") == ""
    assert suffix(answer="Pink", suffix="In a word.") == "In a word."


def test_an_answer_may_have_several_wordings(tmp_path: Path) -> None:
    question = QuestionSpec(template="Q", answer=("No", "no", "NO"))
    assert (question.candidates, question.suffix) == (("Yes", "No"), "Answer with Yes or No.")
    asked = question.for_prompt(Prompt("a cat", {}))
    assert (asked.wanted, asked.synonyms) == (1, ("no", "NO"))
    assert asked.wordings == (("Yes",), ("No", "no", "NO"))
    spec = load(tmp_path, PLAIN.replace('?"}', '?", answer: [Yes, yes]}')).require()
    assert spec.questions[0].answer == ("Yes", "yes")
    (tmp_path / "again.yaml").write_text(to_yaml(spec))
    assert read_spec(tmp_path / "again.yaml").require() == spec
