"""Write constraints-lowest.txt: the lowest version of every dependency that pyproject.toml allows.

python -m tools.lowest            write it
make test-lowest                  run the tests with these versions
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints-lowest.txt"
HEAD = (
    "# The lowest versions that pyproject.toml allows; `make test-lowest` tests them. Made by: python -m tools.lowest\n"
)


def lowest() -> str:
    """The text of the file: `name==version` for every `name>=version` of `[project] dependencies`."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r'^  "([\w.-]+)>=([\w.]+)"', block, re.MULTILINE)
    assert len(found) == len(block.splitlines()), "a dependency has no lowest version"
    return HEAD + "".join(f"{name}=={version}\n" for name, version in found)


if __name__ == "__main__":
    FILE.write_text(lowest(), encoding="utf-8")
    print(f"wrote {FILE.name}")
