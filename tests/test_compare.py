"""`dp compare`: the page of several runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from found_images import dp
from run_examples import SPEC, evaluation

from dualproc.report import write_samples
from dualproc.report.compare import render_comparison
from dualproc.run import RunFolder
from dualproc.types import Evaluation


def finished(path: Path, found: Evaluation, spec: str = SPEC) -> RunFolder:
    """A run with an evaluation and its images, which are of one colour each."""
    with RunFolder.create(path, spec_text="", resolved_text=spec) as run:
        images = torch.rand(len(found.seeds), 3, 1, 1).expand(-1, -1, 8, 8)
        write_samples(run.samples, images, images, prompts=[prompt.text for prompt in found.prompts], seeds=found.seeds)
        run.write_evaluation(found)
    return RunFolder(path)


def cells(html: str, row: str) -> list[str]:
    """The cells of a table row, by its heading."""
    (found,) = re.findall(rf"<th scope=\"row\">{re.escape(row)}</th>(.*?)</tr>", html)
    return re.findall(r"<td[^>]*>(.*?)</td>", found)


def test_results_settings_and_images_of_all_runs_are_on_one_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / "one", evaluation())
    finished(tmp_path / "two", evaluation(judge=(0.5,) * 4), SPEC.replace("lr: 1e-4", "lr: 3e-4, batch: 2"))
    page = tmp_path / "page.html"
    code, out, _ = dp(capsys, "compare", tmp_path / "one", tmp_path / "two", "--out", page)
    assert (code, out) == (0, f"{page}\n")
    html = page.read_text()
    assert "The same 4 held-out images in every run." in html
    assert [cell.partition(" ±")[0].split(" → ")[0] for cell in cells(html, "judge&#39;s P(wanted answer)")] == [
        "0.300"
    ] * 2
    assert "→ 0.500" in cells(html, "judge&#39;s P(wanted answer)")[1]
    assert cells(html, "train.lr") == ["0.0001", "0.0003"]
    assert cells(html, "train.batch")[1] == "2"
    assert html.count("<img ") == 4 * 3
    assert not re.search(r"<script|<link|url\(|https?://", html)


def test_runs_with_other_held_out_images_are_not_called_comparable(tmp_path: Path) -> None:
    found = evaluation()
    other = Evaluation(found.prompts, (5, 6, 5, 6), found.base, found.trained)
    html = render_comparison([finished(tmp_path / "one", found), finished(tmp_path / "two", other)])
    assert "their numbers cannot be compared directly" in html
    assert html.count("<img ") == 4 * 2  # the second run has none of these images
    assert "None, apart from evaluation" in html


def test_a_comparison_needs_two_runs_that_are_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path / "one", evaluation())
    assert "two or more runs, got 1" in dp(capsys, "compare", tmp_path / "one")[2]
    with RunFolder.create(tmp_path / "new", spec_text="", resolved_text=SPEC):
        pass
    assert "is not finished: it has no evaluation.json" in dp(capsys, "compare", tmp_path / "one", tmp_path / "new")[2]
