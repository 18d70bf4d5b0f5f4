"""Types and default values of plugin parameters as readable text, from their JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def value_words(value: Any) -> str:
    """A value as it is written in a spec."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def type_words(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The type and bounds of a field, such as `number > 0 and <= 1`; `schema` has the `$defs` that it may refer to."""
    if "$ref" in field:
        return type_words(schema["$defs"][field["$ref"].rsplit("/", 1)[-1]], schema)
    if "x-plugin" in field:
        return "a plugin, {type: NAME, ...}"
    if options := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(dict.fromkeys(type_words(option, schema) for option in options))
    if "enum" in field or "const" in field:
        return " | ".join(value_words(value) for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"[{', '.join(type_words(item, schema) for item in field['prefixItems'])}]"
    if field.get("type") == "array":
        return f"list of {type_words(field.get('items', {}), schema)}"
    if field.get("properties"):
        return f"{{{', '.join(f'{name}: {type_words(of, schema)}' for name, of in field['properties'].items())}}}"
    bounds = " and ".join(f"{sign} {field[key]:g}" for key, sign in _BOUNDS.items() if key in field)
    return f"{'none' if field.get('type') == 'null' else field.get('type', 'anything')} {bounds}".strip()
