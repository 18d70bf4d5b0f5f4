"""The header of a safetensors file: facts about the tensors, which other tools show."""

from __future__ import annotations

import json
from collections.abc import Mapping


def with_facts(content: bytes, facts: Mapping[str, str]) -> bytes:
    """A safetensors file with `facts` added to the metadata in its header; its tensors stay the same.

    Raises ValueError if `content` is not a safetensors file.
    """
    start, length = 8, int.from_bytes(content[:8], "little")
    header = json.loads(content[start : start + length])
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header["__metadata__"] = {**header.get("__metadata__", {}), **facts}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[start + length :]
