"""docs/write_a_plugin.md: writes all its files and runs all its commands, in order, in a fresh environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fresh_environment import Environment

PAGE = Path(__file__).parents[1] / "docs" / "write_a_plugin.md"
BLOCK = re.compile(r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
FAILS = re.compile(r"\s+# exit code (\d+)$")


@dataclass(frozen=True)
class Block:
    """A block of code: a file, commands (`sh`), or lines that the commands before it print (`text`)."""

    language: str
    text: str
    file: str | None


def blocks(text: str) -> Iterator[Block]:
    for match in BLOCK.finditer(text):
        yield Block(match["language"], match["text"], match["file"])


def run(commands: str, environment: Environment, folder: Path) -> str:
    """What the commands print. Each line is a command, which must end with the exit code in its comment, or 0."""
    printed = []
    for line in commands.splitlines():
        if line.startswith("cd "):
            folder = folder / line.removeprefix("cd ")
            continue
        fails = FAILS.search(line)
        printed.append(environment.run(FAILS.sub("", line), folder, code=int(fails[1]) if fails else 0))
    return "\n".join(printed)


def test_every_block_of_the_page_works(tmp_path: Path) -> None:
    environment, folder = Environment.make(tmp_path / "environment"), tmp_path / "redness"
    folder.mkdir()
    printed = ""
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.file is not None:
            (folder / block.file).parent.mkdir(exist_ok=True)
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            printed = run(block.text, environment, folder)
        else:
            assert block.language == "text", f"neither a file nor commands:\n{block.text}"
            missing = [line for line in block.text.splitlines() if line.strip() not in printed]
            assert missing == [], f"not printed: {missing}\nbut:\n{printed}"


@pytest.mark.parametrize(("command", "code"), [("false", 1), ("exit 2  # exit code 1", 2), ("true  # exit code 1", 0)])
def test_a_command_with_another_exit_code_is_found(tmp_path: Path, command: str, code: int) -> None:
    with pytest.raises(AssertionError, match=f"ended with {code}"):
        run(command, Environment.make(tmp_path / "environment"), tmp_path)
