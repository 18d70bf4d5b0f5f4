"""The JSON schema of a spec file, for editors that complete and check while one writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualproc.protocols import KINDS

from .fields import WORD
from .models import TaskSpec
from .refs import AnchorRef, MemberRef, PluginRef

Schema = dict[str, Any]

_PLACES: dict[str, tuple[str, type[PluginRef]]] = {kind: (kind, PluginRef) for kind in KINDS}
_PLACES |= {"anchors": ("anchors", AnchorRef), "members": ("judges", MemberRef)}
"""For each marker `x-plugin`: which kind of plugin stands there, and the keys beside its parameters."""
_FILLED_KINDS = ("rewards", "visual_prompts", "anchors", "scorers")
_FILLED_MODELS = ("Jitter", "QuestionSpec", "VisualPromptSpec")
"""The parts of a spec whose values a `{placeholder}` may stand for."""


def json_schema(params: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Schema:
    """The schema (draft 2020-12) of a spec file.

    `params` has, for each kind of `dualproc.protocols.KINDS` and each plugin name, the JSON schema of the plugin's
    `Params`. A file that `extends` another may leave out what the other has.
    """
    schema = TaskSpec.model_json_schema()
    required = _required(schema, schema["$defs"])
    schema = _without_required(schema)
    definitions = schema["$defs"]
    definitions.update({name: _fillable(definitions[name]) for name in _FILLED_MODELS})
    for marker, (kind, _) in _PLACES.items():
        plugins = params.get(kind, {})
        definitions[marker] = _choice(marker, list(plugins))
        definitions.update({f"{marker}.{name}": _plugin(marker, name, plugin) for name, plugin in plugins.items()})
    pattern = WORD.replace("^", r"^\{").replace("$", r"\}$")
    definitions["Placeholder"] = {"type": "string", "pattern": pattern, "description": "Filled by the variant's value."}
    schema["properties"]["extends"] = {"type": "string", "description": "A spec in this folder or below to build on."}
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**dialect, **_linked(schema), "if": {"required": ["extends"]}, "else": required}


def _choice(kind: str, names: Sequence[str]) -> Schema:
    """A mapping whose `type` decides which plugin's schema holds; `distribution/name` may name any."""
    properties = _own_keys(kind)
    if names:
        properties["type"] = {**properties["type"], "anyOf": [{"enum": list(names)}, {"pattern": "/"}]}
    rules = [
        {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": {"$ref": _link(kind, name)}}
        for name in names
    ]
    return {"type": "object", "properties": properties, **({"allOf": rules} if rules else {})}


def _plugin(kind: str, name: str, params: Mapping[str, Any]) -> Schema:
    """A plugin's parameters, with the keys that a spec has beside them."""
    schema = _relinked(dict(params), _link(kind, name))
    schema = _fillable(schema) if kind in _FILLED_KINDS else schema
    return {**schema, "properties": {**_own_keys(kind), **schema.get("properties", {})}}


def _own_keys(kind: str) -> Schema:
    """What a place of this kind takes besides the plugin's parameters."""
    schema = _PLACES[kind][1].model_json_schema()
    return dict((_fillable(schema) if kind in _FILLED_KINDS else schema)["properties"])


def _link(kind: str, name: str) -> str:
    return f"#/$defs/{kind}." + name.replace("~", "~0").replace("/", "~1")


def _relinked(schema: Schema, home: str) -> Schema:
    """A schema whose own definitions have moved, with it, to `home`."""
    schema = _each_part(schema, lambda part: _relinked(part, home))
    if "$ref" in schema:
        schema["$ref"] = home + schema["$ref"].removeprefix("#")
    return schema


def _linked(schema: Schema) -> Schema:
    """A schema whose markers `x-plugin: kind` are links to the kind's schema."""
    schema = _each_part(schema, _linked)
    if "x-plugin" in schema:
        schema["$ref"] = f"#/$defs/{schema.pop('x-plugin')}"
    return schema


def _fillable(schema: Schema) -> Schema:
    """A schema that takes a placeholder wherever it takes a value."""
    schema = _each_part(schema, _fillable)
    if "properties" in schema:
        schema["properties"] = {key: _or_placeholder(part) for key, part in schema["properties"].items()}
    if isinstance(schema.get("items"), dict):
        schema["items"] = _or_placeholder(schema["items"])
    if "prefixItems" in schema:
        schema["prefixItems"] = [_or_placeholder(part) for part in schema["prefixItems"]]
    return schema


def _or_placeholder(schema: Schema) -> Schema:
    outside: Schema = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    return {**outside, "anyOf": [schema, {"$ref": "#/$defs/Placeholder"}]}


def _without_required(schema: Schema) -> Schema:
    schema = _each_part(schema, _without_required)
    schema.pop("required", None)
    return schema


def _required(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Only what a schema requires, links followed: a schema of its own, for files that build on no other."""
    if "$ref" in schema:
        return _required(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    result: Schema = {"required": schema["required"]} if "required" in schema else {}
    if "x-plugin" in schema:
        result = {"required": ["type"]}
    for member in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):  # an object or a list or nothing: no overlap
        result |= _required(member, definitions)
    properties = {key: _required(part, definitions) for key, part in schema.get("properties", {}).items()}
    if properties := {key: part for key, part in properties.items() if part}:
        result["properties"] = properties
    if "items" in schema and (items := _required(schema["items"], definitions)):
        result["items"] = items
    return result


def _each_part(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A copy of a schema with `change` applied to every schema directly inside it."""
    copy = dict(schema)
    for key in ("properties", "$defs", "patternProperties"):
        if key in copy:
            copy[key] = {name: change(part) for name, part in copy[key].items()}
    for key in ("items", "additionalProperties", "if", "then", "else", "not"):
        if isinstance(copy.get(key), dict):
            copy[key] = change(copy[key])
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if key in copy:
            copy[key] = [change(part) for part in copy[key]]
    return copy
