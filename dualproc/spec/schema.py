"""The JSON schema of a spec file, for completion and validation in editors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualproc.protocols import KINDS

from .fields import WORD
from .models import TaskSpec
from .refs import MemberRef, PluginRef, fullest_ref

Schema = dict[str, Any]

_PLACES: dict[str, tuple[str, type[PluginRef]]] = {kind: (kind, fullest_ref(kind)) for kind in KINDS}
_PLACES |= {"judges": ("judges", PluginRef), "members": ("judges", MemberRef)}
"""For each `x-plugin` marker: the kind of plugin, and the model with the keys besides the plugin's parameters."""
_FILLED_KINDS = ("rewards", "visual_prompts", "anchors", "scorers")
_FILLED_MODELS = ("Jitter", "QuestionSpec", "VisualPromptSpec")
"""The kinds of plugins and the models whose values may be written as a `{placeholder}`."""


def json_schema(params: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Schema:
    """The JSON schema (draft 2020-12) of a spec file.

    `params` maps each kind of `dualproc.protocols.KINDS` and each plugin name to the JSON schema of the plugin's
    `Params`. In a file that `extends` another, no key is required.
    """
    schema = TaskSpec.model_json_schema()
    required = _required(schema, schema["$defs"])
    schema = _mapped(schema, lambda part: {key: value for key, value in part.items() if key != "required"})
    definitions = schema["$defs"]
    definitions.update({name: _with_placeholders(definitions[name]) for name in _FILLED_MODELS})
    for marker, (kind, _) in _PLACES.items():
        plugins = params.get(kind, {})
        definitions[marker] = _choice(marker, list(plugins))
        definitions.update({f"{marker}.{name}": _plugin(marker, name, plugin) for name, plugin in plugins.items()})
    pattern = WORD.replace("^", r"^\{").replace("$", r"\}$")
    definitions["Placeholder"] = {
        "type": "string",
        "pattern": pattern,
        "description": "Replaced with the value of this name, of the variant or of a slider.",
    }
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Path of the spec to build on, relative to this file; in the same folder or below.",
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**dialect, **_mapped(schema, _linked), "if": {"required": ["extends"]}, "else": required}


def _choice(kind: str, names: Sequence[str]) -> Schema:
    """A mapping whose `type` selects the plugin's schema; any name of the form `distribution/name` is allowed."""
    properties = _own_keys(kind)
    if names:
        properties["type"] = {**properties["type"], "anyOf": [{"enum": list(names)}, {"pattern": "/"}]}
    rules = [
        {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": {"$ref": _link(kind, name)}}
        for name in names
    ]
    return {"type": "object", "properties": properties, **({"allOf": rules} if rules else {})}


def _plugin(kind: str, name: str, params: Mapping[str, Any]) -> Schema:
    """A plugin's parameters, together with the spec's own keys such as `type`."""

    def relinked(part: Schema) -> Schema:
        return {**part, "$ref": _link(kind, name) + part["$ref"].removeprefix("#")} if "$ref" in part else part

    schema = _mapped(params, relinked)
    schema = _with_placeholders(schema) if kind in _FILLED_KINDS else schema
    return {**schema, "properties": {**_own_keys(kind), **schema.get("properties", {})}}


def _own_keys(kind: str) -> Schema:
    """The spec's own keys in a reference to a plugin: `type`, and for some kinds others such as `weight`."""
    schema = _PLACES[kind][1].model_json_schema()
    return dict((_with_placeholders(schema) if kind in _FILLED_KINDS else schema)["properties"])


def _link(kind: str, name: str) -> str:
    return f"#/$defs/{kind}." + name.replace("~", "~0").replace("/", "~1")


def _linked(part: Schema) -> Schema:
    """The marker `x-plugin: kind` replaced with a link to the kind's schema."""
    if "x-plugin" in part:
        part["$ref"] = f"#/$defs/{part.pop('x-plugin')}"
    return part


def _with_placeholders(schema: Schema) -> Schema:
    """The schema, also accepting a placeholder in place of every value."""

    def change(part: Schema) -> Schema:
        if "properties" in part:
            part["properties"] = {key: _or_placeholder(value) for key, value in part["properties"].items()}
        if isinstance(part.get("items"), dict):
            part["items"] = _or_placeholder(part["items"])
        if "prefixItems" in part:
            part["prefixItems"] = [_or_placeholder(value) for value in part["prefixItems"]]
        return part

    return _mapped(schema, change)


def _or_placeholder(schema: Schema) -> Schema:
    outside: Schema = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    return {**outside, "anyOf": [schema, {"$ref": "#/$defs/Placeholder"}]}


def _required(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """A schema with only the required keys, links resolved; it applies to files without `extends`."""
    if "$ref" in schema:
        return _required(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    result: Schema = {"required": schema["required"]} if "required" in schema else {}
    if "x-plugin" in schema:
        result = {"required": ["type"]}
    for member in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):  # an object, a list or null: no overlap
        result |= _required(member, definitions)
    properties = {key: _required(part, definitions) for key, part in schema.get("properties", {}).items()}
    if properties := {key: part for key, part in properties.items() if part}:
        result["properties"] = properties
    if "items" in schema and (items := _required(schema["items"], definitions)):
        result["items"] = items
    return result


def _mapped(schema: Mapping[str, Any], change: Callable[[Schema], Schema]) -> Schema:
    """A copy of a schema; `change` gets a copy of every schema inside it, and then of the schema itself."""
    copy = dict(schema)
    for key, part in schema.items():
        if key in ("properties", "$defs", "patternProperties"):
            copy[key] = {name: _mapped(inside, change) for name, inside in part.items()}
        elif key in ("items", "additionalProperties", "if", "then", "else", "not") and isinstance(part, dict):
            copy[key] = _mapped(part, change)
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            copy[key] = [_mapped(inside, change) for inside in part]
    return change(copy)
