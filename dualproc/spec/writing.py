"""Write a TaskSpec as readable YAML, which `read_spec` reads back as the same TaskSpec."""

from __future__ import annotations

from typing import Any

import yaml

from .models import TaskSpec
from .reading import scalar

_OLD_LINE_BREAKS = "\x85\u2028\u2029"
"""Line breaks of YAML 1.1: PyYAML writes them unescaped by default, and then reads them as a space."""


class Dumper(yaml.SafeDumper):
    """Block style, lists of numbers on one line, no anchors; quotes strings that YAML 1.1 or 1.2 could misread."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def _text(self, text: str) -> yaml.Node:
        misread = scalar(text) != text or any(mark in text for mark in _OLD_LINE_BREAKS)
        style = '"' if misread else "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def _list(self, items: Any) -> yaml.Node:
        numbers = all(isinstance(item, (int, float)) for item in items)
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=numbers)


Dumper.add_representer(str, Dumper._text)
Dumper.add_representer(list, Dumper._list)
Dumper.add_representer(tuple, Dumper._list)


def to_yaml(spec: TaskSpec) -> str:
    """Write every value of a spec as YAML, including defaults, in the order of the reference.

    If a variant is chosen, all variants are kept, and `variant` names the chosen one.
    """
    return yaml.dump(spec.model_dump(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**31)
