"""Changing single values in the text of a spec."""

from __future__ import annotations

from typing import Any

import pytest

from dualproc.errors import DualprocError
from dualproc.spec import shipped_specs
from dualproc.spec.editing import edited
from dualproc.spec.reading import read_text

TEXT = """\
# The task.
name: test   # its name

prompts:
  template: a cartoon of {subject}
  train: [a cat,
          a dog]    # more later
  eval: [an owl]

question:
  - {template: "Is it?", answer: Yes}   # first
  - {template: "Is this still a drawing of {subject}?", answer: Yes}

# How long.
train: {steps: 200, lora: {rank: 4}}
"""


def plain(text: str) -> Any:
    document, problems = read_text(text, "")
    assert document is not None
    assert problems == []
    return document.plain()


def put(data: Any, path: tuple[str, ...], value: Any) -> Any:
    """Plain data with a value at a path."""
    if not path:
        return value
    if isinstance(data, list):
        return [put(item, path[1:], value) if index == int(path[0]) else item for index, item in enumerate(data)]
    data = data or {}
    return {**data, path[0]: put(data.get(path[0]), path[1:], value)}


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("name", "other", "name: other   # its name"),
        ("train.steps", 50, "train: {steps: 50, lora: {rank: 4}}"),
        ("train.lr", 1e-4, "train: {steps: 200, lora: {rank: 4}, lr: 0.0001}"),
        ("train.lora.init", "a: b", "train: {steps: 200, lora: {rank: 4, init: 'a: b'}}"),
        ("prompts.train", ["a tree"], "  train: [a tree]    # more later"),
        ("question.0.answer", "No", """  - {template: "Is it?", answer: 'No'}   # first"""),
        ("referee.type", "tiny-referee", "referee: {type: tiny-referee}"),
        ("question", [{"template": "So?", "answer": "Yes"}], "  - {template: 'So?', answer: 'Yes'}"),
        ("visual_prompt.layers", [{"type": "line"}], "    - {type: line}"),
        ("description", "Café: 5 # of {row}", "description: 'Café: 5 # of {row}'"),
    ],
)
def test_one_value_changes_and_comments_stay(path: str, value: Any, line: str) -> None:
    changed = edited(TEXT, tuple(path.split(".")), value)
    assert line in changed.splitlines()
    assert plain(changed) == put(plain(TEXT), tuple(path.split(".")), value)
    assert "# The task." in changed
    assert "# How long." in changed


def test_long_lists_are_wrapped() -> None:
    prompts = [f"a very long prompt with number {index}" for index in range(20)]
    changed = edited(TEXT, ("prompts", "train"), prompts)
    assert plain(changed)["prompts"]["train"] == prompts
    assert max(map(len, changed.splitlines())) <= 120


VALUES: dict[str, Any] = {
    "name": "other", "prompts.template": "a {subject}: really?", "prompts.train": ["a cat", {"subject": "a, b"}],
    "prompts.eval": [f"a thing {index}" for index in range(40)], "train.steps": 7, "train.lr": 3e-5,
    "train.preview": {"every": 5}, "question": [{"template": "Yes?", "answer": ["Yes", "yes"]}, {"template": "{x}"}],
    "referee": None, "generator.type": "sdxl", "visual_prompt.layers": [{"type": "line", "from": [0, "{row}"]}],
    "visual_prompt.blend": "alpha", "variants": {"a": {"row": 0.5}}, "scorers": [], "evaluation.seeds": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", list(shipped_specs()))
def test_every_value_of_the_shipped_specs_can_be_changed(name: str) -> None:
    text = shipped_specs()[name].read_text(encoding="utf-8")
    expected = plain(text)
    for path, value in VALUES.items():
        text = edited(text, tuple(path.split(".")), value)
        expected = put(expected, tuple(path.split(".")), value)
        assert plain(text) == expected, path


def test_empty_text_gets_a_first_key() -> None:
    assert edited("", ("name",), "x") == "name: x\n"
    assert plain(edited("# only a comment\n", ("train", "steps"), 3)) == {"train": {"steps": 3}}


@pytest.mark.parametrize("text", ["a: [", "- a", "just text", "a: b: c"])
def test_text_that_is_not_a_mapping_is_refused(text: str) -> None:
    with pytest.raises(DualprocError, match="cannot be edited"):
        edited(text, ("name",), "x")
