"""Parsing of YAML and JSON: scalars of YAML 1.2, positions, invalid text, and limits."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from spec_texts import PLAIN, SPEC, load, only, write

from dualproc.errors import SpecError
from dualproc.spec import read_spec
from dualproc.spec.document import problem_at
from dualproc.spec.reading import read_text, scalar


@pytest.mark.parametrize("text", ["Yes", "no", "on", "OFF", "y", "1_000", "0o8", "1:30", "2024-01-01", "1e", ".", "<<"])
def test_words_are_read_as_strings(text: str) -> None:
    assert scalar(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-5", 5e-5), ("1e4", 1e4), ("012", 12), ("-3", -3), ("+.5", 0.5), ("2.", 2.0), ("0o17", 15), ("0xFf", 255),
     ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("-.inf", -math.inf)],
)  # fmt: skip
def test_numbers_and_constants_are_converted(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_quoted_scalars_are_strings() -> None:
    node, problems = read_text("a: '1'\nb: \"true\"\nc: |\n  5\nd: 5\n", "x")
    assert node is not None
    assert node.plain() == {"a": "1", "b": "true", "c": "5\n", "d": 5}
    assert not problems


def test_the_answer_yes_and_small_numbers_in_a_spec(tmp_path: Path) -> None:
    spec = load(tmp_path, SPEC, variant="thin").require()
    assert spec.questions[0].answer == "Yes"
    assert spec.train.lr == 1e-4


def test_every_value_and_key_has_its_place(tmp_path: Path) -> None:
    loaded = load(tmp_path, SPEC)
    value = problem_at(loaded.document, "visual_prompt.layers.0.color", "ugly")
    key = problem_at(loaded.document, "visual_prompt.layers.0.color", "ugly", at="key")
    line = 16
    assert (value.source, value.line, value.column) == (str(tmp_path / "spec.yaml"), line, 59)
    assert (key.line, key.column) == (line, 52)
    assert value.text == SPEC.splitlines()[line - 1]
    assert value.text[value.column - 1 :].startswith("red")
    assert key.text is not None
    assert key.text[key.column - 1 :].startswith("color")


def test_a_missing_path_points_at_the_enclosing_mapping(tmp_path: Path) -> None:
    problem = problem_at(load(tmp_path, SPEC).document, "train.lora.rank.x", "?", hint="!")
    assert (problem.path, problem.line, problem.column, problem.hint) == ("train.lora.rank.x", 23, 19, "!")


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_values_in_json_have_positions(tmp_path: Path, indent: int | str | None) -> None:
    data = load(tmp_path, PLAIN).document.plain()
    data["question"]["template"] = "Is it \U0001f600 in {prompt}?"
    data["nmae"] = 1
    text = json.dumps(data, indent=indent)
    problem = only(read_spec(write(tmp_path, text, "spec.json")))
    assert problem.line == next(i for i, line in enumerate(text.splitlines(), 1) if '"nmae"' in line)
    assert problem.column == text.splitlines()[problem.line - 1].index('"nmae"') + 1
    del data["nmae"]
    spec = read_spec(write(tmp_path, json.dumps(data, indent=indent), "spec.json")).require()
    assert spec.questions[0].template == "Is it \U0001f600 in {prompt}?"


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\nb:\n\tc: 2\n", 3, 1, "found a tab where YAML expects spaces"),
        ("a: 1\nb: [1,\n", 3, 1, "not valid YAML"),
        ("a: is it: red\n", 1, 9, "not valid YAML"),
        ("", 1, 1, "the file is empty"),
        ("# only a comment\n", 1, 1, "the file is empty"),
        ("- a\n- b\n", 1, 1, "expected a mapping of keys to values"),
        ("a: 1\n--- \nb: 2\n", 2, 1, "a second YAML document"),
        ("a: 1\nb: \x07\n", 2, 4, "is not allowed"),
        ('a: "\\ud800"\n', 1, 4, "half of a surrogate pair"),
        ("a: 1\nb: 2\na: 3\n", 3, 1, "duplicate key `a`; first used on line 1"),
        ("a: {b: 1, b: 2}\n", 1, 11, "duplicate key `b`"),
        ("a: !!python/object/apply:os.getcwd []\n", 1, 4, "tags"),
        ("a: &x 1\n", 1, 4, "anchors and aliases"),
        ("a: *x\n", 1, 4, "anchors and aliases"),
        ("? [a]\n: 1\n", 1, 3, "a key must be a single word"),
    ],
)
def test_invalid_text_is_reported_with_its_place(
    tmp_path: Path, text: str, line: int, column: int, message: str
) -> None:
    problems = load(tmp_path, text).problems
    found = [problem for problem in problems if message in problem.message]
    assert [(problem.line, problem.column) for problem in found] == [(line, column)], problems


@pytest.mark.parametrize("text", ["a: {b: Is it blue?, c: No}", "a: [Is it?, No]"])
def test_an_unquoted_question_mark_inside_braces_has_a_hint(tmp_path: Path, text: str) -> None:
    problem = only(load(tmp_path, text))
    assert problem.hint == "inside braces or brackets, put a string that contains `?` in quotes"


def test_an_escape_beyond_unicode_is_reported(tmp_path: Path) -> None:
    assert "not a Unicode character" in only(load(tmp_path, 'a: "\\UFFFFFFFF"')).message


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 400_000, "{a: " * 200_000, "- " * 400_000, "".join(" " * i + "a:\n" for i in range(1000))],
    ids=["lists", "mappings", "dashes", "blocks"],
)
def test_deep_nesting_is_rejected_quickly(tmp_path: Path, text: str) -> None:
    started = time.monotonic()
    assert "nested more than" in only(load(tmp_path, text)).message
    assert time.monotonic() - started < 5


def test_a_variant_cannot_expand_a_spec_without_limit(tmp_path: Path) -> None:
    text = SPEC.replace("Lines of {width}.", f"'{'{width}' * 100}'").replace("0.016", "x" * 50_000)
    assert any("more than 1000000 characters" in problem.message for problem in load(tmp_path, text).problems)


def test_a_long_line_is_not_shown_with_a_problem(tmp_path: Path) -> None:
    problem = only(load(tmp_path, PLAIN + "nmae: " + "x" * 5000))
    assert (problem.line, problem.text) == (5, None)


def test_at_most_a_hundred_problems_are_shown(tmp_path: Path) -> None:
    problems = load(tmp_path, PLAIN + "".join(f"k{i}: 1\n" for i in range(300))).problems
    assert len(problems) == 101
    assert "only the first 100" in problems[-1].message


@pytest.mark.parametrize(("encoding", "byte"), [("latin-1", "0xe9"), ("utf-16", "0xff")])
def test_other_encodings_are_rejected_with_the_byte_and_the_line(tmp_path: Path, encoding: str, byte: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes("a: 1\nb: caf\u00e9\n".encode(encoding))
    problem = only(read_spec(path))
    assert f"not UTF-8 text (byte {byte})" in problem.message
    assert problem.line == (2 if encoding == "latin-1" else 1)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(PLAIN, encoding="utf-8-sig")
    assert read_spec(path).require().name == "plain"


def test_a_missing_file_has_a_suggestion(tmp_path: Path) -> None:
    write(tmp_path, PLAIN, "line_weight.yaml")
    with pytest.raises(SpecError, match=r"line_wieght\.yaml: no such file\n.*`line_weight\.yaml`"):
        read_spec(tmp_path / "line_wieght.yaml")
    with pytest.raises(SpecError, match=r"the folder .* does not exist either"):
        read_spec(tmp_path / "nowhere" / "spec.yaml")


def test_only_spec_files_of_limited_size_are_read(tmp_path: Path) -> None:
    write(tmp_path, PLAIN, "here.yaml")
    with pytest.raises(SpecError, match=r"this is a folder, not a spec file\n.*here\.yaml"):
        read_spec(tmp_path)
    with pytest.raises(SpecError, match=r"expected a regular file that ends in \.yaml, \.yml or \.json"):
        read_spec(write(tmp_path, PLAIN, "spec.txt"))
    with pytest.raises(SpecError, match="larger than 1000 kB"):
        read_spec(write(tmp_path, "#" * 1_000_001))
    with pytest.raises(SpecError, match="cannot be read"):
        read_spec(tmp_path / f"{'a' * 300}.yaml")
