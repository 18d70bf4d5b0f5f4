"""`make table`: the tables of docs/results.md and README.md, and their images, from the results of a bench."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_examples import finished, outcome, row

from dualproc.report import side_effects
from dualproc.report.bench import GALLERY, TABLE_MARKDOWN, BenchRow, read_result, write_table
from dualproc.report.gallery import write_gallery
from tools.results import COLUMNS, FULL_TABLE, SIDE_TABLE, SMALL_TABLE, fill, publish, read_bench, small_table


def write_bench(bench: Path, rows: list[BenchRow], *, planned: int | None = None) -> None:
    """The files of a bench in which `rows` are done, out of `planned` (default: all)."""
    write_table(bench, rows, planned=planned or len(rows), command="dp bench specs/")
    write_gallery(bench / GALLERY, bench, rows)


def write_documents(root: Path) -> None:
    """A README and a results page, each with a line before and after an outdated table."""
    (root / "docs").mkdir()
    for file, tables in (("docs/results.md", (FULL_TABLE, SIDE_TABLE)), ("README.md", (SMALL_TABLE,))):
        outdated = "".join(f"{begin}\nan outdated table\n{end}\nafter\n" for begin, end in tables)
        (root / file).write_text(f"before\n{outdated}", encoding="utf-8")


def test_small_table_shows_target_and_kept_per_variant(tmp_path: Path) -> None:
    rows = [
        row(tmp_path / "thick"),
        BenchRow("attribute", None, "blue", read_result(finished(tmp_path / "blue", fit=outcome()))),
        BenchRow("palette", "retro", "retro", error="out of memory"),
    ]
    head, rule, *lines = small_table(rows).splitlines()
    assert head == "| task | variant | on target, before -> after | subjects kept |"
    assert rule.count("---") == len(COLUMNS)
    assert lines[0] == "| line_weight | thick | 25% -> 75% | 100% |"
    assert lines[1] == "| attribute |  | 25% -> 75% | 100% |"
    assert lines[2] == "| palette | retro | – | – |"  # noqa: RUF001
    assert len(lines) == len(rows)


def test_tables_and_images_are_published(tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    rows = [
        row(bench / "high", name="horizon", variant="high"),
        row(bench / "low", name="horizon", variant="low"),
        row(bench / "snow", name="commonsense", variant=None),
    ]
    write_bench(bench, rows)
    (bench / side_effects.FILE).write_text("the matrix\n", encoding="utf-8")
    write_documents(tmp_path)
    publish(bench, tmp_path)
    full = (bench / TABLE_MARKDOWN).read_text(encoding="utf-8").strip()
    texts = {name: (tmp_path / name).read_text(encoding="utf-8") for name in ("docs/results.md", "README.md")}
    tables = f"{FULL_TABLE[0]}\n{full}\n{FULL_TABLE[1]}\nafter\n{SIDE_TABLE[0]}\nthe matrix\n{SIDE_TABLE[1]}\nafter\n"
    assert texts["docs/results.md"] == f"before\n{tables}"
    assert texts["README.md"] == f"before\n{SMALL_TABLE[0]}\n{small_table(rows)}\n{SMALL_TABLE[1]}\nafter\n"
    images = tmp_path / "docs" / "images"
    assert (images / GALLERY).read_bytes() == (bench / GALLERY).read_bytes()
    publish(bench, tmp_path)  # again: the documents stay the same
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in texts} == texts


def test_incomplete_bench_is_refused_and_no_document_changes(tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    write_documents(tmp_path)
    before = (tmp_path / "README.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match=r"there is no .*: run `make bench` first"):
        publish(bench, tmp_path)
    rows = [row(bench / "run")]
    write_bench(bench, rows, planned=2)
    with pytest.raises(SystemExit, match="1 of 2 variants have not been run: resume with `make bench`"):
        publish(bench, tmp_path)
    write_bench(bench, [*rows, BenchRow("palette", None, "palette", error="out of memory")])
    with pytest.raises(SystemExit, match="these runs failed: palette"):
        publish(bench, tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == before
    write_bench(bench, rows)
    assert [one.label for one in read_bench(bench)] == ["line_weight/thick"]


@pytest.mark.parametrize("text", ["", "<b>", "<e><b>", "<b><e><b><e>"])
def test_missing_or_repeated_markers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected one `<b>` followed by one `<e>`"):
        fill(text, ("<b>", "<e>"), "content")
