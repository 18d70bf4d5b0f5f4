"""Put the table and the gallery of `runs/bench` into the README: `make table`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from dualproc.report.bench import GALLERY, TABLE_JSON, TABLE_MARKDOWN, BenchRow, read_result
from dualproc.report.gallery import write_gallery

ROOT = Path(__file__).resolve().parents[1]
FIRST = ("horizon", "line_weight", "palette", "relative_depth")
"""Whose last variants are shown at the top; the image of all is too long for there."""
BEGIN, END = "<!-- table: make table -->", "<!-- end table -->"


def fill(readme: str, table: str) -> str:
    """The README's text with `table` between its two markers."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table.strip()}\n{END}{after}"


def why_not(bench: Path) -> str | None:
    """Why the results in a bench's folder cannot be shown (unfinished, failed, none at all); None if they can."""
    if not (bench / TABLE_JSON).exists():
        return f"there is no {bench / TABLE_JSON}: run `make bench` first"
    content = json.loads((bench / TABLE_JSON).read_text(encoding="utf-8"))
    missing = content["planned"] - len(content["rows"])
    if missing:
        return f"{missing} of {content['planned']} variants have not been run: go on with `make bench`"
    failed = [row["folder"] for row in content["rows"] if row["error"]]
    return f"these failed: {', '.join(failed)}" if failed else None


def publish(bench: Path, root: Path) -> None:
    """Fill in `root/README.md`, and put the gallery and the image at the top into `root/docs/images`."""
    readme, images = root / "README.md", root / "docs" / "images"
    table = (bench / TABLE_MARKDOWN).read_text(encoding="utf-8")
    readme.write_text(fill(readme.read_text(encoding="utf-8"), table), encoding="utf-8")
    images.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(bench / GALLERY, images / GALLERY)
    last = {row["name"]: row for row in json.loads((bench / TABLE_JSON).read_text(encoding="utf-8"))["rows"]}
    rows = [
        BenchRow(row["name"], row["variant"], row["folder"], read_result(bench / row["folder"]))
        for name, row in last.items()
        if name in FIRST
    ]
    write_gallery(images / "first.png", bench, rows)


def main() -> None:
    bench = ROOT / "runs" / "bench"
    reason = why_not(bench)
    if reason:
        sys.exit(f"error: {reason}")
    publish(bench, ROOT)


if __name__ == "__main__":
    main()
