"""The JSON schema for editors: it accepts the same files as `read_spec`, and contains the given plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from spec_texts import PLAIN, SPEC, write

from dualproc.spec import json_schema, read_spec
from dualproc.spec.reading import read_text


class Inner(BaseModel, extra="forbid"):
    size: int


class LineWeight(BaseModel, extra="forbid"):
    target: float = Field(description="Target width.")
    tolerance: float = 0.1
    inner: Inner | None = None


class Empty(BaseModel, extra="forbid"):
    pass


PARAMS = {
    "scorers": {"line_weight": LineWeight.model_json_schema()},
    "rewards": {"yes_no_gap": Empty.model_json_schema()},
    "anchors": {"base_denoise": Empty.model_json_schema()},
    "judges": {"a/b~c": Empty.model_json_schema()},
}


@pytest.fixture(scope="module")
def errors() -> Callable[[str], list[str]]:
    """The dotted paths at which a YAML text does not match the schema."""
    import jsonschema

    schema = json_schema(PARAMS)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    def errors(text: str) -> list[str]:
        node, problems = read_text(text, "x")
        assert node is not None
        assert not problems
        return sorted({".".join(map(str, error.absolute_path)) for error in validator.iter_errors(node.plain())})

    return errors


def links(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return own + [link for part in schema.values() for link in links(part)]
    return [link for part in schema for link in links(part)] if isinstance(schema, list) else []


def test_every_link_has_a_target() -> None:
    schema = json_schema(PARAMS)
    found = set(links(schema))
    assert "#/$defs/scorers.line_weight/$defs/Inner" in found
    assert "#/$defs/judges.a~1b~0c" in found
    for link in found:
        here = schema
        for part in link.removeprefix("#/").split("/"):
            here = here[part.replace("~1", "/").replace("~0", "~")]
    assert "x-plugin" not in str(schema)


def test_the_schema_has_the_parameters_of_every_plugin() -> None:
    schema = json_schema(PARAMS)
    assert schema["properties"]["scorers"]["items"] == {"$ref": "#/$defs/scorers"}
    assert schema["$defs"]["scorers"]["properties"]["type"]["anyOf"][0] == {"enum": ["line_weight"]}
    params = schema["$defs"]["scorers.line_weight"]["properties"]
    assert params["target"]["description"] == "Target width."
    assert set(params) == {"type", "target", "tolerance", "inner"}
    assert set(schema["$defs"]["anchors.base_denoise"]["properties"]) == {"type", "weight", "share"}
    assert "allOf" not in json_schema({})["$defs"]["scorers"]


def test_every_property_is_described() -> None:
    schema = json_schema({})
    places = [schema, *schema["$defs"].values()]
    undescribed = [
        key for place in places for key, part in place.get("properties", {}).items() if not part.get("description")
    ]
    assert undescribed == []


@pytest.mark.parametrize("text", [SPEC, PLAIN, "extends: x.yaml\nquestion: {answer: No}\ntrain: {steps: 3}\n"])
def test_valid_specs_pass(errors: Callable[[str], list[str]], text: str) -> None:
    assert errors(text.replace("type: other", "type: a/b~c")) == []


def test_a_shipped_spec_passes_a_schema_without_plugins(tmp_path: Path) -> None:
    import jsonschema

    text = (Path(__file__).parents[1] / "specs" / "line_weight.yaml").read_text(encoding="utf-8")
    jsonschema.validate(read_spec(write(tmp_path, text)).document.plain(), json_schema({}))


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("name: lines", "name: my lines", "name"),
        ("name: lines", "nmae: lines", ""),
        ("eval:", "evl:", "prompts"),
        ("lr: 1e-4", "lr: fast", "train.lr"),
        ("type: line_weight", "type: line_wieght", "scorers.0.type"),
        ('target: "{width}"', "target: wide", "scorers.0.target"),
        ('target: "{width}"', 'target: 1, inner: {size: "{a} b"}', "scorers.0.inner"),
        ('target: "{width}"', "traget: 1", "scorers.0"),
        ("type: yes_no_gap", "type: yes_no_gap, x: 1", "reward"),
    ],
)
def test_invalid_specs_fail_at_the_right_path(
    errors: Callable[[str], list[str]], old: str, new: str, path: str
) -> None:
    assert old in SPEC
    assert path in errors(SPEC.replace("type: other", "type: a/b~c").replace(old, new))


def test_placeholders_pass_only_where_variants_are_filled_in(errors: Callable[[str], list[str]]) -> None:
    text = SPEC.replace("type: other", "type: a/b~c").replace("weight: 2", 'weight: "{width}"')
    text = text.replace("[-0.05, 0.02]", '["{width}", 0.1]').replace(
        "{type: line_weight,", '{type: line_weight, inner: {size: "{width}"},'
    )
    assert errors(text) == []
    assert errors(text.replace("lr: 1e-4", 'lr: "{width}"')) == ["train.lr"]
