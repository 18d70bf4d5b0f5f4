"""Put the numbers and the picture of `runs/line_weight` into the README: `make table`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dualproc.run import RunFolder, summary_rows

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: make table -->", "<!-- end table -->"
VARIANTS = ("thin", "thick")


def table() -> str:
    """Base and taught, one column each for every variant."""
    columns = []
    for variant in VARIANTS:
        evaluation = RunFolder.open(ROOT / "runs" / "line_weight" / variant).read_evaluation()
        assert evaluation is not None, f"the run {variant} is not finished"
        columns.append({row.label: row for row in summary_rows(evaluation)})
        count = len(evaluation.seeds)
    heads = [f"{variant}: {when}" for variant in VARIANTS for when in ("base", "taught")]
    lines = [f"| {count} held-out pictures each | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for label in dict.fromkeys(label for column in columns for label in column):
        cells = [cell for c in columns for cell in ((c[label].before, c[label].after) if label in c else ("-", "-"))]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture() -> None:
    """Both variants' before/after grids, one below the other."""
    grids = [
        Image.open(ROOT / "runs" / "line_weight" / variant / "samples" / "before_after.png") for variant in VARIANTS
    ]
    together = Image.new("RGB", (max(g.width for g in grids), sum(g.height for g in grids)), "white")
    top = 0
    for grid in grids:
        together.paste(grid, (0, top))
        top += grid.height
    target = ROOT / "docs" / "images" / "line_weight.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    together.save(target, optimize=True)


def main() -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")
    picture()


if __name__ == "__main__":
    main()
