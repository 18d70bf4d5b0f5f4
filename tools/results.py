"""Publish the results of `runs/bench` in docs/results.md and README.md, with their images: `make table`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualproc.report import side_effects
from dualproc.report.bench import (
    GALLERY,
    HEADINGS,
    TABLE_JSON,
    TABLE_MARKDOWN,
    BenchRow,
    cells,
    grouped,
    read_result,
)

ROOT = Path(__file__).resolve().parents[1]
FULL_TABLE = ("<!-- results: make table -->", "<!-- end of results -->")
"""Markers in docs/results.md around every number, the footer and the legend."""
SMALL_TABLE = ("<!-- table: make table -->", "<!-- end table -->")
"""Markers in README.md around the columns of `COLUMNS`."""
SIDE_TABLE = ("<!-- side effects: make table -->", "<!-- end of side effects -->")
"""Markers in docs/results.md around the table of side effects."""
COLUMNS = {
    "task": "task",
    "variant": "variant",
    "on target": "on target, before -> after",
    "kept": "subjects kept",
}
"""Columns of the small table: heading in the bench's table -> heading in README.md."""


def fill(text: str, markers: tuple[str, str], content: str) -> str:
    """The text with `content` between its two markers. Raises ValueError unless each marker occurs once, in order."""
    begin, end = markers
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected one `{begin}` followed by one `{end}`")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n{content.strip()}\n{end}{after}"


def small_table(rows: Sequence[BenchRow]) -> str:
    """The Markdown table of README.md: one row per variant, and only the columns of `COLUMNS`."""
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    for group in grouped(rows):
        shown = dict(zip(HEADINGS, cells(*group), strict=True))
        shown["kept"] = shown["kept"].rpartition(" -> ")[2].partition(" (")[0]  # the mean only
        lines.append([shown[heading] for heading in COLUMNS])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_bench(bench: Path) -> list[BenchRow]:
    """The rows of a bench's folder. Exits with a message if the bench is missing, unfinished, or has a failed run."""
    file = bench / TABLE_JSON
    if not file.exists():
        sys.exit(f"error: there is no {file}: run `make bench` first")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    rows, planned = content["rows"], content["planned"]
    if len(rows) < planned:
        sys.exit(f"error: {planned - len(rows)} of {planned} variants have not been run: resume with `make bench`")
    if failed := [row["folder"] for row in rows if row["error"]]:
        sys.exit(f"error: these runs failed: {', '.join(failed)}; the reasons are in {bench / TABLE_MARKDOWN}")
    return [
        BenchRow(row["name"], row["variant"], row["folder"], read_result(bench / row["folder"]), seed=row.get("seed"))
        for row in rows
    ]


def publish(bench: Path, root: Path) -> None:
    """Write the tables into `root/docs/results.md` and `root/README.md`, and their images into `root/docs/images`."""
    rows, images = read_bench(bench), root / "docs" / "images"
    full, effects = ((bench / name).read_text(encoding="utf-8") for name in (TABLE_MARKDOWN, side_effects.FILE))
    for file, markers, content in (
        (root / "docs" / "results.md", FULL_TABLE, full),
        (root / "docs" / "results.md", SIDE_TABLE, effects),
        (root / "README.md", SMALL_TABLE, small_table(rows)),
    ):
        file.write_text(fill(file.read_text(encoding="utf-8"), markers, content), encoding="utf-8")
    images.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(bench / GALLERY, images / GALLERY)


def main() -> None:
    publish(ROOT / "runs" / "bench", ROOT)


if __name__ == "__main__":
    main()
