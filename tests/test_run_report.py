"""Report and model card, from complete, unfinished and hostile runs."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from run_examples import SPEC, evaluation, measurement, record, score

import dualproc
from dualproc.errors import RunError
from dualproc.report import (
    render_card,
    render_report,
    summary_rows,
    write_card,
    write_report,
    write_samples,
)
from dualproc.report.charts import Chart, Series, dot_plot, line_chart
from dualproc.report.html import page, result_html
from dualproc.run import RunFolder
from dualproc.run.resolved import task
from dualproc.types import Evaluation, Prompt, Recipe

EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&amp;"


class Page(HTMLParser):
    """All tags, attributes and text of a page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("img", "meta"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data + " "


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has just begun."""
    return RunFolder.create(tmp_path / "thick", spec_text="", resolved_text=SPEC)


def finish(run: RunFolder, found: Evaluation | None = None, *, size: int = 8, overlaid: bool = True) -> RunFolder:
    found = found or evaluation()
    for step in range(1, 5):
        run.log(record(step, referee=0.5 if step % 2 else None, hack_meter=0.03))
    images = torch.rand(len(found.seeds), 3, size, size)
    texts = [prompt.text for prompt in found.prompts]
    write_samples(
        run.samples, images, images, judge_view=images if overlaid else None, prompts=texts, seeds=found.seeds
    )
    run.write_evaluation(found)
    run.write("pytorch_lora_weights.safetensors", b"")
    return run


def test_the_report_states_the_result_and_shows_every_part(run: RunFolder) -> None:
    page = Page(write_report(finish(run)).read_text())
    assert "75% of 4 held-out images on target (base: 25%)" in page.text
    assert "Line weight: 0.0300\u00a0→\u00a00.0420 (target 0.042), 1 of 4 not measured." in page.text
    assert "4 held-out images of 2 prompts" in page.text
    assert "4 training steps done in 1.0 s" in page.text
    assert "Does the line weight match the red line?" in page.text
    assert "Is there {subject}?" in page.text
    assert page.tags.count("img") == 4 * 3
    for heading in ("Before and after", "Base and trained", "Over the steps", "Every image's numbers", "Environment"):
        assert heading in page.text
    for title in ("P(wanted answer)", "hack meter", "reward", "loss", "anchor", "gradient norm"):
        assert f"{title} over the steps" in [value for name, value in page.attributes if name == "aria-label"]
    for row in summary_rows(evaluation()):
        assert all(cell in page.text for cell in row)


def test_report_and_card_call_a_scorer_without_any_value_not_measured_and_never_0_percent(run: RunFolder) -> None:
    blind = score((math.nan,) * 4, on_target=0.0)  # as older versions wrote it
    html = render_report(finish(run, evaluation(measurement(scores=(blind,)), scores=(blind,))))
    page = Page(html)
    assert "Line weight: not measured. The referee's P(wanted answer): 0.200" in page.text
    assert "line weight: not measured on 4 of 4 base images and 4 of 4 trained images" in page.text
    assert "not measured → not measured" in page.text
    assert "0%" not in re.findall(r">([^<]*%[^<]*)<", html)
    card = render_card(run, Recipe("some/model", "float32"))
    assert "| line weight on target | not measured | not measured | within 0.036 to 0.048 |" in card


def test_the_report_loads_nothing_and_runs_nothing(run: RunFolder) -> None:
    html = render_report(finish(run))
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "form", "a", "base"} & set(page.tags)
    assert all(value.startswith("data:image/png;base64,") for name, value in page.attributes if name in ("src", "href"))
    assert not re.search(r"url\(|@import|https?://", html)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes


def test_nothing_from_a_spec_or_a_plugin_becomes_markup(tmp_path: Path) -> None:
    spec = {
        "name": EVIL,
        "description": EVIL,
        "question": [{"template": EVIL, "answer": EVIL}],
        "preserve": {"template": EVIL},
    }
    run = RunFolder.create(tmp_path / "a", spec_text="", resolved_text=yaml.safe_dump(spec), env={EVIL: EVIL})
    hostile = score((0.1, 0.2, 0.3, 0.4), name=EVIL, unit=EVIL)
    found = evaluation(measurement(scores=(hostile,)), scores=(hostile,))
    found = dataclasses.replace(found, prompts=tuple(Prompt(EVIL) for _ in found.prompts))
    html = render_report(finish(run, found))
    page = Page(html)
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.text.count("<script>alert(1)</script>") >= 8  # shown as text
    card = render_card(run, Recipe(EVIL, "float32"))
    outside_code = re.sub(r"(`{3,}).*?\n\1", "", card, flags=re.DOTALL)
    assert not re.search(r"(?<![\\`])<(script|img)", outside_code.replace(f"`{EVIL}`", ""))


def test_an_interrupted_run_is_reported_as_unfinished(run: RunFolder) -> None:
    page = Page(render_report(run))
    assert "No training step has been done yet" in page.text
    assert "No training step has been logged" in page.text
    assert "The LoRA has not been written yet" in page.text
    run.log(record(1))
    run.log(record(2, loss=math.nan, reward=math.nan, skipped=True, anchor=0.0))
    page = Page(render_report(run))
    assert "2 of 4 training steps done" in page.text
    assert "Nothing has been measured yet" in page.text
    assert "1 step skipped" in page.text
    assert "No referee was asked during training" in page.text
    assert "img" not in page.tags
    assert "Not evaluated yet" in render_card(run, Recipe("owner/model", "float32"))


def test_missing_scorer_referee_and_preserve_question_are_listed(run: RunFolder) -> None:
    nothing: dict[str, Any] = {"scores": (), "referee": None, "preserved": None}
    page = Page(render_report(finish(run, evaluation(measurement(**nothing), **nothing), overlaid=False)))
    assert "The spec names no scorer, no referee, no preserve question." in page.text
    assert "No independent measurement" in page.text
    assert "(not an independent measurement)" in page.text
    assert page.tags.count("img") == 4 * 2


@pytest.mark.parametrize(("share", "level"), [(0.9, "good"), (0.6, "partial"), (0.39, "poor")])
def test_the_colour_follows_the_share_on_target(run: RunFolder, share: float, level: str) -> None:
    found = evaluation(measurement(scores=(score((0.03,) * 4),)), scores=(score((0.04,) * 4, on_target=share),))
    html = render_report(finish(run, found))
    assert re.search(rf'<h1 class="{level}">{share:.0%} of 4 held-out images on target \(base: 0%\)</h1>', html)
    assert f'<p class="verdict {level}">' in html
    assert f'<strong class="{level}">{share:.0%}</strong>' in html
    classes = re.findall(r'class="([^"]*)"', html)
    assert not {"good", "partial", "poor"} - {level} & {word for names in classes for word in names.split()}


def test_without_an_independent_measurement_nothing_is_coloured(run: RunFolder) -> None:
    nothing: dict[str, Any] = {"scores": (), "referee": None, "preserved": None}
    html = render_report(finish(run, evaluation(measurement(**nothing), judge=(0.99,) * 4, **nothing)))
    assert not re.search(r'class="[^"]*\b(good|partial|poor|verdict)\b', html)


def test_warnings_of_the_run_are_in_its_report_each_once_also_before_its_end(run: RunFolder) -> None:
    run.add_warnings([EVIL, EVIL])
    run.add_warnings(["the referee 'x' does not know the words: a", EVIL])
    assert run.read_warnings() == [EVIL, "the referee 'x' does not know the words: a"]
    for html in (render_report(run), render_report(finish(run))):
        page = Page(html)
        assert page.text.count("<script>alert(1)</script>") == 1
        assert "the referee 'x' does not know the words: a" in page.text
        assert "script" not in page.tags


def test_a_notebook_shows_outcome_warnings_table_and_images_and_no_markup_of_a_spec(run: RunFolder) -> None:
    finish(run)
    html = result_html(run.path, evaluation(), notes=[EVIL], took="4 training steps in 1.0 s")
    page = Page(html)
    assert "75% of 4 held-out images on target (base: 25%)" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert all(cell in page.text for row in summary_rows(evaluation()) for cell in row)
    assert "4 training steps in 1.0 s" in page.text
    (run.samples / "before_after.png").unlink()  # the run folder may be gone when a notebook shows the result
    assert "img" not in Page(result_html(run.path, evaluation(), notes=[], took="")).tags


def test_reward_hacking_is_warned_about(run: RunFolder) -> None:
    page = Page(render_report(finish(run, evaluation(hack_meter=0.12, judge=(0.99,) * 4))))
    assert [value for name, value in page.attributes if name == "class"].count("callout warn") == 2
    assert "The hack meter is 4.0x the base's" in page.text
    assert "possible reward hacking" in page.text
    assert render_card(run, Recipe("owner/model", "float32")).count("**Look closely.**") == 2


def test_a_warning_does_not_hide_the_comparison_of_judge_and_measurement(run: RunFolder) -> None:
    page = Page(render_report(finish(run, evaluation(hack_meter=0.12))))
    assert [value for name, value in page.attributes if name == "class"].count("callout warn") == 1
    assert "The two agree." in page.text


def test_a_run_without_images_or_environment_still_has_a_report(run: RunFolder) -> None:
    run.write_evaluation(evaluation())
    (run.path / "env.json").unlink()
    page = Page(render_report(run))
    assert "The run has no images." in page.text
    assert "Not recorded." in page.text


def test_large_images_are_downscaled(run: RunFolder) -> None:
    finish(run, size=512)
    stored = sum(path.stat().st_size for path in run.samples.rglob("*seed*.png"))
    assert len(render_report(run)) < stored / 3


def test_a_damaged_spec_is_named(run: RunFolder) -> None:
    (run.path / "spec.resolved.yaml").write_text("name: [")
    with pytest.raises(RunError, match=r"spec\.resolved\.yaml is damaged"):
        render_report(run)


def drawn(chart: Chart | None) -> str:
    """The chart as the page shows it."""
    assert chart is not None
    values = {"curves": [chart], "task": task({}), "name": "a", "heading": "b"}
    return re.findall(r"<figure.*?</figure>", page(values), flags=re.DOTALL)[0]


# --- charts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [1e9, -1e9], [1e-12, 2e-12], [math.nan, 3.0], [7.0] * 5000])
def test_curves_of_any_values_stay_inside_their_frame(values: list[float]) -> None:
    figure = drawn(line_chart("loss", [Series("", "plain", [(float(i), value) for i, value in enumerate(values, 1)])]))
    assert len(figure) < 30_000
    for path in re.findall(r' d="([^"]*)"', figure):
        points = re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)
        assert all(0 <= float(x) <= 340 and 0 <= float(y) <= 170 for x, y in points)
    assert "nan" not in figure


def test_curves_without_a_number_are_left_out() -> None:
    assert line_chart("loss", [Series("", "plain", [(1.0, math.nan)])]) is None
    assert line_chart("loss", [Series("", "plain", [])]) is None


def test_a_gap_breaks_the_curve() -> None:
    figure = drawn(line_chart("loss", [Series("", "plain", [(1.0, 1.0), (2.0, math.nan), (3.0, 1.0)])]))
    (path,) = re.findall(r' d="([^"]*)"', figure)
    assert path.count("M") == 2
    assert "L" not in path


def test_a_dot_is_inside_the_band_exactly_if_its_image_is_on_target() -> None:
    values = tuple(0.030 + 0.0005 * step + 0.0002 for step in range(50))
    figure = drawn(dot_plot(score((0.01,)), score(values)))
    left, width = (float(value) for value in re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', figure)[0])
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"[^>]*class="dot trained"', figure)]
    assert len(dots) == 50
    assert sum(left < x < left + width for x in dots) == sum(abs(value - 0.042) <= 0.006 for value in values)


def test_a_dot_on_the_edge_of_the_accepted_range_is_inside_it_and_no_target_line_is_drawn_without_a_target() -> None:
    changes = {"target": None, "accepted": (0.25, 1.0)}
    figure = drawn(dot_plot(score((0.0, 0.2499), **changes), score((0.25, 1.0, 1.0), **changes)))
    left, width = (float(value) for value in re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', figure)[0])
    inside = {
        style: [
            left < float(x) < left + width
            for x in re.findall(rf'<circle cx="([\d.]+)"[^>]*class="dot {style}"', figure)
        ]
        for style in ("base", "trained")
    }
    assert inside == {"base": [False, False], "trained": [True] * 3}
    assert "target-line" not in figure
    assert "within 0.25 to 1" in figure


def test_a_plot_says_how_many_images_were_not_measured() -> None:
    chart = dot_plot(score((0.04,)), score((0.04, math.nan)))
    assert chart is not None
    assert chart.about == "one dot per image; of the height; 1 of 2 trained not measured"


def test_scores_without_any_value_have_no_plot() -> None:
    assert dot_plot(score((math.nan,)), score((math.nan,))) is None


# --- the model card -------------------------------------------------------------------------------------------------


def test_the_card_has_front_matter_numbers_image_and_usage(run: RunFolder) -> None:
    finish(run)
    text = write_card(run, Recipe("black-forest-labs/FLUX.1-schnell", "bfloat16")).read_text()
    _, matter, body = text.split("---\n", 2)
    assert yaml.safe_load(matter) == {
        "base_model": "black-forest-labs/FLUX.1-schnell",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["lora", "text-to-image", "diffusers", "dualproc"],
    }
    assert "# line_weight, thick" in body
    assert "| line weight on target | 25% | 75% | within 0.036 to 0.048 |" in body
    assert "(samples/before_after.png)" in body
    assert 'DiffusionPipeline.from_pretrained("black-forest-labs/FLUX.1-schnell", dtype=torch.bfloat16)' in body
    assert "weight 1.0" in body
    assert SPEC.strip() in body
    (code,) = re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL)
    compile(code, "card", "exec")


def test_a_model_in_a_folder_is_called_with_the_sampling_arguments(run: RunFolder) -> None:
    text = render_card(run, Recipe("/models/mine", "float32", {"height": 64, "guidance_scale": 0.0}))
    assert 'from_pretrained("path/to/mine", dtype=torch.float32)' in text
    assert ", height=64, guidance_scale=0.0).images[0]" in text


def test_the_card_loads_the_files_that_were_trained_with(run: RunFolder) -> None:
    text = render_card(run, Recipe("owner/model", "bfloat16", source={"revision": "v2", "variant": "fp16"}))
    assert 'from_pretrained("owner/model", revision="v2", variant="fp16", dtype=torch.bfloat16)' in text


def test_a_shipped_model_is_found_wherever_dualproc_is_installed(run: RunFolder) -> None:
    finish(run)
    folder = Path(dualproc.__file__).parent / "weights" / "generator"
    text = render_card(run, Recipe(str(folder), "float32"))
    assert "A LoRA for `dualproc/weights/generator`" in text
    assert str(folder.parent) not in text.replace(run.resolved_text, "")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (found,) = re.findall(r"from_pretrained\((.*), dtype", code)
    assert Path(eval(found, {"files": files, "str": str})) == folder


def test_the_card_of_another_library_says_to_use_dp_generate(run: RunFolder) -> None:
    finish(run)
    text = render_card(run, Recipe("small", "float32", library="acme-small"))
    assert yaml.safe_load(text.split("---\n", 2)[1])["library_name"] == "acme-small"
    (command,) = re.findall(r"```sh\n(.*?)\n```", text)
    assert shlex.split(command)[:3] == ["dp", "generate", "path/to/this/folder"]
    assert "DiffusionPipeline" not in text


def test_a_spec_cannot_end_its_code_block(tmp_path: Path) -> None:
    resolved = "name: a\ndescription: |\n  ```\n  # not a heading\n"
    run = RunFolder.create(tmp_path / "a", spec_text="", resolved_text=resolved)
    assert f"````yaml\n{resolved}````" in render_card(run, Recipe("owner/model", "float32"))


def test_the_card_says_how_to_load_the_lora_if_the_pipeline_has_no_loader(run: RunFolder) -> None:
    recipe = Recipe("owner/model", "float32", scheduler="DDIMScheduler", peft_module="transformer")
    text = render_card(run, recipe)
    code = text[text.index("```python") + len("```python") :].partition("```")[0]
    compile(code, "card", "exec")
    assert "from diffusers import DiffusionPipeline, DDIMScheduler" in code
    assert "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)" in code
    assert "PeftModel.from_pretrained(pipe.transformer," in code
    assert "load_lora_weights" not in code
