"""Writing a LoRA's files, with facts about it in their headers, which other tools show."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualproc.errors import RunError
from dualproc.kit.files import MAX_TENSORS, read
from dualproc.spec.paths import WEIGHTS

from .files import ASIDE, as_run_error, make_folder, remove, sync

if TYPE_CHECKING:
    from torch import Tensor

SUM = "dualproc.sha256"
"""Where the header of a LoRA file keeps its checksum."""


def write_lora(target: Path, save: Callable[[Path], None], facts: Mapping[str, str] | None = None) -> None:
    """Let `save` write a LoRA's files into a temporary folder, then move them to `target`, each one atomically.

    `facts` are added to the headers of the safetensors files. All files get the permissions of other new files:
    safetensors makes files that only their owner may read.

    Raises RunError if they cannot be written, and any other exception of `save`; earlier files then stay.
    """
    from safetensors import SafetensorError

    aside = target / f"{ASIDE}lora"
    make_folder(target)
    remove(aside)
    make_folder(aside)
    try:
        with as_run_error("write", target / WEIGHTS):
            try:
                save(aside)
            except SafetensorError as error:
                raise _system_error(error) from error
            plain = aside.stat().st_mode & 0o666  # the umask has been applied to the folder
            for file in sorted(aside.iterdir(), key=lambda file: file.name == WEIGHTS):  # it completes the run
                if file.suffix == ".safetensors":
                    file.write_bytes(_described(file, facts or {}))
                file.chmod(plain)
                sync(file)
                file.replace(target / file.name)
            sync(target)
    finally:
        remove(aside)


def with_facts(content: bytes, facts: Mapping[str, str]) -> bytes:
    """A safetensors file with `facts` and its checksum added to the metadata in its header; its tensors stay the same.

    Raises ValueError if `content` is not a safetensors file.
    """
    header, tensors = _parts(content)
    metadata = header["__metadata__"] = {**header.get("__metadata__", {}), **facts}
    metadata[SUM] = _sum(header, tensors)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + tensors


def read_lora(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a LoRA file, and the metadata in its header.

    Raises OSError, ValueError or SafetensorError if it is not a complete safetensors file, or is not as dualproc wrote
    it. Files of other tools have no checksum.
    """
    from safetensors.torch import load

    content = read(file, most=MAX_TENSORS)
    tensors = load(content)
    header, data = _parts(content)
    metadata = header.get("__metadata__", {})
    if metadata.get(SUM, known := _sum(header, data)) != known:
        raise ValueError("it has changed since it was written (its checksum differs)")
    return tensors, metadata


def is_whole(file: Path) -> bool:
    """Whether `read_lora` can read a file."""
    from safetensors import SafetensorError

    try:
        read_lora(file)
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and its tensors' bytes. Raises ValueError if it is not one."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header, content[8 + length :]


def _sum(header: Mapping[str, Any], tensors: bytes) -> str:
    """The SHA-256 of a safetensors file without its own checksum."""
    metadata = {name: text for name, text in header.get("__metadata__", {}).items() if name != SUM}
    text = json.dumps({**header, "__metadata__": metadata}, sort_keys=True)
    return hashlib.sha256(text.encode() + tensors).hexdigest()


def _described(file: Path, facts: Mapping[str, str]) -> bytes:
    """The content of a safetensors file with `facts` in its header."""
    try:
        return with_facts(file.read_bytes(), facts)
    except ValueError as error:
        hint = "plugin authors: `dualproc.testing.check_generator` checks what `save_lora` writes"
        raise RunError(f"the generator plugin wrote a damaged {file.name}: {error}", hint=hint) from error


def _system_error(error: Exception) -> OSError:
    """The system error in an error of safetensors, which writes files itself and keeps only the text of it."""
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError(str(error))
