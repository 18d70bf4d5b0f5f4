"""Writing a LoRA's files, with facts about it in their headers, which other tools show."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from dualproc.errors import RunError
from dualproc.spec.paths import WEIGHTS

from .files import ASIDE, as_run_error, make_folder, remove, sync


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
                if facts and file.suffix == ".safetensors":
                    file.write_bytes(_described(file, facts))
                file.chmod(plain)
                sync(file)
                file.replace(target / file.name)
            sync(target)
    finally:
        remove(aside)


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
