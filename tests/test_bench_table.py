"""The table and the gallery of a bench: rows, footer, JSON, images; and what counts as a finished run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from bench_examples import finished, outcome, row
from PIL import Image
from run_examples import SPEC, measurement, score

from dualproc.errors import RunError
from dualproc.report.bench import (
    GALLERY,
    HEADINGS,
    TABLE_JSON,
    BenchRow,
    cells,
    footer,
    is_finished,
    reached,
    read_result,
    render_markdown,
    write_table,
)
from dualproc.report.gallery import write_gallery
from dualproc.run import RunFolder, peak_memory


def named_cells(row: BenchRow) -> dict[str, str]:
    return dict(zip(HEADINGS, cells(row), strict=True))


def test_row_shows_every_measurement_of_base_and_trained_generator(tmp_path: Path) -> None:
    assert named_cells(row(tmp_path / "run")) == {
        "task": "line_weight",
        "variant": "thick",
        "measured": "line weight 0.0300 -> 0.0420 (target 0.042)",
        "on target": "25% -> 75%",
        "judge": "0.300 -> 0.750",
        "judge - on target": "+0.00",
        "referee": "0.200 -> 0.700",
        "kept": "100% -> 100%",
        "diversity": "95%",
        "beyond the task": "100%",
        "hack meter": "1.1x",
        "seconds": "42",
        "memory": "1.2 GB",
    }


def test_scorer_without_target_shows_its_unit(tmp_path: Path) -> None:
    no_target = {"scores": (score((0.1, 0.3) * 2, target=None, accepted=None, on_target=None),)}
    shown = named_cells(row(tmp_path / "run", base=measurement(**no_target), **no_target))
    assert shown["measured"] == "line weight 0.200 -> 0.200 (of the height)"
    assert (shown["on target"], shown["judge - on target"]) == ("–", "–")  # noqa: RUF001


def test_scorer_without_any_value_is_not_measured(tmp_path: Path) -> None:
    blind = row(tmp_path / "run", scores=(score((math.nan,) * 4),))
    shown = named_cells(blind)
    assert shown["measured"] == "line weight 0.0300 -> not measured (target 0.042)"
    assert (shown["on target"], shown["judge - on target"]) == ("25% -> not measured", "–")  # noqa: RUF001
    assert reached([blind])["on target >= 90%"] == reached([blind])["judge - on target <= 0.1"] == 0
    assert "line_weight/thick 4 of 4 trained" in " ".join(footer([blind], planned=1, command="dp bench"))
    old = {"scores": (score((math.nan,) * 4, on_target=0.0),)}  # as older versions wrote it
    assert named_cells(row(tmp_path / "old", base=measurement(**old), **old))["on target"] == "not measured"


def test_missing_measurements_are_dashes_and_reach_no_target(tmp_path: Path) -> None:
    unmeasured = {"scores": (), "referee": None, "preserved": None}
    folder = finished(tmp_path / "run", base=measurement(**unmeasured), fit=outcome(peak_memory=None), **unmeasured)
    shown = BenchRow("line_weight", None, "run", read_result(folder))
    missing = {heading for heading, cell in named_cells(shown).items() if cell == "–"}  # noqa: RUF001
    assert missing == {"measured", "on target", "judge - on target", "referee", "kept", "memory"}
    assert shown.label == "line_weight"
    assert [label for label, count in reached([shown]).items() if count] == [
        "diversity >= 90%",
        "diversity beyond the task >= 90%",
        "training <= 60 s",
    ]


def test_failed_runs_count_as_variants_that_reach_no_target(tmp_path: Path) -> None:
    rows = [
        row(tmp_path / "a"),
        row(tmp_path / "b", diversity=0.1),
        BenchRow("palette", None, "palette", error="no|o\nx"),
    ]
    assert reached(rows) == {
        "on target >= 90%": 0, "kept >= 95%": 2, "diversity >= 90%": 1, "judge - on target <= 0.1": 2,
        "diversity beyond the task >= 90%": 1, "training <= 60 s": 2,
    }  # fmt: skip
    lines = footer(rows, planned=5, command="dp bench specs/")
    assert lines[0] == "Unfinished: 3 of 5 variants so far."
    assert lines[1].startswith("Targets reached, out of 3 variants: on target >= 90%: 0; kept >= 95%: 2;")
    assert lines[2].startswith("Images without a value (they count as missed): line_weight/thick 1 of 4 trained;")
    assert lines[3:] == ["4 held-out images per variant; 2 CPU cores, torch 2.9.0.", "Made by `dp bench specs/`."]
    table = render_markdown(rows, planned=3, command="dp bench specs/").splitlines()
    assert "Unfinished" not in "".join(table)
    assert table[4].startswith("| palette |  | failed: no\\|o x | ")
    columns = [line.replace("\\|", "").count("|") for line in table[:5]]
    assert columns == [len(HEADINGS) + 1] * 5


def test_run_is_finished_unless_interrupted_or_without_an_evaluation(tmp_path: Path) -> None:
    assert not is_finished(tmp_path / "nothing")
    assert is_finished(finished(tmp_path / "done"))
    assert not is_finished(finished(tmp_path / "interrupted", fit=outcome(interrupted=True)))
    with RunFolder.create(tmp_path / "begun", spec_text=SPEC, resolved_text=SPEC):
        pass
    assert not is_finished(tmp_path / "begun")
    with pytest.raises(RunError, match="is not finished"):
        read_result(tmp_path / "begun")
    (tmp_path / "done" / "outcome.json").write_text("{}")
    with pytest.raises(RunError, match=r"outcome\.json is damaged"):
        is_finished(tmp_path / "done")


def test_json_has_the_rows_of_the_table_and_null_for_missing_numbers(tmp_path: Path) -> None:
    write_table(
        tmp_path,
        [row(tmp_path / "run", base=measurement(referee=None), referee=None)],
        planned=2,
        command="dp bench a.yaml",
    )
    content = json.loads((tmp_path / TABLE_JSON).read_text())
    assert (content["command"], content["planned"]) == ("dp bench a.yaml", 2)
    (only,) = content["rows"]
    assert only["folder"] == "run"
    assert only["result"]["scores"][0]["on_target"] == {"before": 0.25, "after": 0.75}
    assert only["result"]["referee"]["after"] is None
    assert only["result"]["outcome"]["wall_seconds"] == 60


def test_gallery_shows_base_above_trained_images_enlarged_by_an_integer(tmp_path: Path) -> None:
    rows = [row(tmp_path / "run"), BenchRow("palette", None, "palette", error="oh")]
    path = write_gallery(tmp_path / GALLERY, tmp_path, rows)
    assert path is not None
    with Image.open(path) as image:
        colors = {color: count for count, color in image.getcolors(10**6) or ()}
    # 8 x 8 pixels, one of them odd, are enlarged to 128 x 128: each pixel covers 16 x 16.
    base, trained, overlaid = (102, 51, 0), (204, 153, 102), (255, 204, 153)
    assert [colors[color] for color in (base, trained, overlaid)] == [4 * 63 * 256, 4 * 63 * 256, 63 * 256]
    for file in (tmp_path / "run" / "samples" / "base").iterdir():
        file.unlink()
    assert write_gallery(tmp_path / GALLERY, tmp_path, rows) is None


def test_deleting_a_run_keeps_files_that_are_not_part_of_it(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    (folder / "notes.txt").write_text("mine")
    RunFolder.delete(folder)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", ".lock"}
    RunFolder.delete(tmp_path / "nothing")


def test_peak_memory_is_that_of_this_process_only() -> None:
    code = (
        "from dualproc.run.environment import peak_memory; before = peak_memory(); "
        "bytearray(200_000_000); print(before, peak_memory())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = map(int, printed.split())
    assert 10**6 < before < 150_000_000 < peak_memory()  # type: ignore[operator]  # this process has loaded torch
    assert after - before == pytest.approx(200_000_000, rel=0.1)
