"""Property tests: `read_spec` reads back the output of `to_yaml` unchanged, and never raises on damaged text."""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_texts import SPEC, write

from dualproc.errors import Problem
from dualproc.spec import TaskSpec, read_spec, spec_from_dict, to_yaml
from dualproc.spec.reading import read_text, scalar

SHAPED = ["Yes", "no", "null", "~", "5e-5", "1e4", "012", "0o7", "0x1f", ".inf", "1_0", "- a", "a: b", "#c", "<<", "="]
text = st.text(max_size=20) | st.sampled_from(
    [*SHAPED, "a\nb", " a\n\n b \n", "\ufeff", "\x85", "\u2028", "\U0001f600"]
)
ink = text.filter(lambda t: any(not c.isspace() for c in t) and "{" not in t)
words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | text.filter(lambda t: "{" not in t)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(text, v, max_size=3), max_leaves=6)


def refs(**own: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    params = st.dictionaries(text.filter(lambda key: key not in ("type", "weight")), values, max_size=3)
    return st.builds(lambda params, own: {**params, **own}, params, st.fixed_dictionaries({"type": ink, **own}))


questions = st.fixed_dictionaries(
    {"template": ink}, optional={"suffix": text.filter(lambda t: "{" not in t), "answer": ink}
)
specs = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}", fullmatch=True),
        "prompts": st.lists(ink, min_size=2, max_size=5, unique=True).map(lambda p: {"train": p[1:], "eval": p[:1]}),
        "question": questions | st.lists(questions.map(lambda q: {**q, "answer": "No"}), min_size=1, max_size=2),
    },
    optional={
        "description": text.filter(lambda t: "{" not in t),
        "reward": refs(),
        "generator": refs(),
        "scorers": st.lists(refs(), max_size=2),
        "anchor": refs(weight=st.floats(0, 100)),
        "visual_prompt": st.fixed_dictionaries({"layers": st.lists(refs(), min_size=1, max_size=2)}),
        "train": st.fixed_dictionaries({"lr": st.floats(1e-9, 1), "steps": st.integers(1, 1000)}),
        "variants": st.just({"thin": {"width": 0.1, "on": "Yes"}}),
    },
)


@settings(max_examples=60, deadline=None)
@given(data=specs)
def test_the_output_of_to_yaml_is_read_back_as_the_same_spec(
    data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = spec_from_dict(data, variant="thin" if "variants" in data else None)
    written = to_yaml(spec)
    path = write(tmp_path_factory.getbasetemp(), written)
    assert read_spec(path).require() == spec
    assert to_yaml(read_spec(path).require()) == written
    if "=" not in written:  # PyYAML cannot construct a lone `=`, which has a meaning in YAML 1.1
        assert isinstance(yaml.safe_load(written), dict)  # other YAML readers can read it


def test_yes_is_quoted_and_lists_of_numbers_are_on_one_line(tmp_path: Path) -> None:
    written = to_yaml(read_spec(write(tmp_path, SPEC), variant="thin").require())
    for line in ("  answer: 'Yes'", "    from: [0, 1]", "    width: 0.016", "variant: thin", "  lr: 0.0001"):
        assert line in written.splitlines()


@settings(max_examples=100, deadline=None)
@given(text=text | st.text(string.digits + "+-.eExXoO_", max_size=8))
def test_strings_and_numbers_keep_their_types(text: str) -> None:
    number = scalar(text)
    finite = isinstance(number, (int, float)) and math.isfinite(number)
    params = {"text": text, text: 0, "type": "t", "number": number if finite else None}
    data = {"name": "n", "prompts": {"train": ["a"], "eval": ["b"]}, "question": {"template": "Q"}, "judge": params}
    node, problems = read_text(to_yaml(TaskSpec.model_validate(data)), "x")
    assert not problems
    assert node is not None
    assert node.plain()["judge"] == params


TOKENS = ["{", "}", "[", "]", ": ", "- ", "\n", "\t", " ", '"', "'", "&a ", "*a ", "!x ", "|", "> ", "---\n", "? ", "#"]
TOKENS += [
    "\\ud800",
    "\\U00110000",
    "{width}",
    "null",
    "1e999",
    ".nan",
    "9" * 400,
    "\x00",
    "\ufeff",
    "\x85",
    "<<: ",
    "%",
]
edits = st.lists(
    st.tuples(st.integers(0, len(SPEC)), st.integers(0, 12), st.sampled_from(TOKENS) | st.text(max_size=3)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=80, deadline=None)
@given(edits=edits, suffix=st.sampled_from([".yaml", ".json"]))
def test_a_damaged_spec_is_loaded_or_has_problems(
    edits: list[tuple[int, int, str]], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = SPEC
    for start, length, new in edits:
        damaged = damaged[:start] + new + damaged[start + length :]
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(damaged.encode("utf-8"))
    loaded = read_spec(path)
    assert loaded.problems or all(each.spec is not None for each in loaded.each())
    assert all(isinstance(problem, Problem) and str(problem) for problem in loaded.problems)


@settings(max_examples=80, deadline=None)
@given(
    override=st.tuples(words | st.sampled_from(["train.lr", "scorers.0.target", "variants.thin"]), text).map("=".join)
)
def test_any_override_is_applied_or_has_problems(override: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.getbasetemp(), SPEC, "override.yaml")
    loaded = read_spec(path, overrides=[override], variant="thin")
    assert (loaded.spec is None) == bool(loaded.problems)
