"""`dp ui` in a real browser, as a user would: from an empty task to a LoRA in plain diffusers."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
expect = sync_api.expect
expect.set_options(timeout=30_000)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""An image of one pixel."""
SLOW = 600_000
"""Milliseconds for a fit to load, train a few steps and be evaluated on a busy machine."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    from dualproc.ui.page import serve

    app, address = serve(runs, host="127.0.0.1", port=None, browser=False, block=False)
    yield address
    app.close()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        open_page(page, address)
        yield page
        browser.close()


def open_page(page: Any, address: str) -> None:
    page.goto(address)
    expect(page.locator(".dp-message").first).to_contain_text("ok: ", timeout=60_000)


def fill(page: Any, label: str, value: str) -> None:
    """Replace the text of a field, whose label may have a hint after it, then leave it."""
    field = page.get_by_label(re.compile(rf"^\s*{re.escape(label)}(\s|$)"))
    field.fill(value)
    field.blur()


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def choose(page: Any, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def drag(page: Any, *places: tuple[float, float]) -> None:
    """Press the mouse button at the first place of the canvas, a fraction of it, and release it at the last."""
    image = page.locator(".dp-canvas img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    for index, (x, y) in enumerate(places):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def status(page: Any) -> Any:
    return page.get_by_role("tabpanel").locator(".dp-message:visible").first


def test_task_and_visual_prompt_from_nothing(page: Any, runs: Path, tmp_path: Path) -> None:
    text = page.locator(".cm-content[data-language=yaml]")

    # Task: the form edits the text, the text the form, and mistakes are said while typing.
    fill(page, "Name", "sky")
    expect(text).to_contain_text("name: sky")
    fill(page, "Training steps", "40")
    expect(text).to_contain_text("steps: 40")
    fill(page, "Images per step", "2")
    expect(text).to_contain_text("batch: 2")
    fill(page, "Preview every", "20")
    expect(text).to_contain_text("preview: {every: 20}")
    fill(page, "Learning rate", "7")
    expect(page.locator(".dp-message").first).to_contain_text("train.lr")
    expect(page.locator(".dp-wrong:visible")).to_contain_text("expected a number of at most 1.0, found 7.0")
    fill(page, "Learning rate", "0.001")
    expect(page.locator(".dp-message").first).to_contain_text("ok: sky")
    text.fill(text.inner_text().rstrip() + "\nevaluation: {seeds: 1}\n")
    page.wait_for_timeout(1500)  # until the form has followed the text
    fill(page, "Held-out prompts, one on each line", "an owl")
    expect(text).to_contain_text("eval: [an owl]")
    expect(text).to_contain_text("evaluation: {seeds: 1}")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("saved at ")).to_be_visible()
    assert "evaluation: {seeds: 1}" in (runs / "specs" / "sky.yaml").read_text()

    # Visual prompt: a line that is drawn with the mouse appears in the text and in what the judge sees.
    page.get_by_role("button", name="Next: the visual prompt").click()
    expect(page.get_by_role("gridcell", name="Is the sky blue? Answer with Yes or No.")).to_be_visible(timeout=SLOW)
    plain = page.locator(".dp-canvas img").get_attribute("src")
    drag(page, (0.01, 0.62), (0.99, 0.63))
    expect(page.get_by_label("Layer", exact=True)).to_have_value("1: line, red")
    expect(page.locator(".dp-canvas img")).not_to_have_attribute("src", plain)
    page.get_by_role("button", name="Hide or show").click()
    expect(page.locator(".dp-canvas img")).to_have_attribute("src", plain)
    page.get_by_role("button", name="Hide or show").click()
    expect(page.get_by_label("Layer", exact=True)).to_have_value("1: line, red")

    # Free-hand and an image file: new layers, below and above the line, then deleted.
    page.get_by_label("Free-hand", exact=True).check()
    expect(page.get_by_text("Further strokes join")).to_be_visible()
    drag(page, (0.1, 0.1), (0.2, 0.3), (0.3, 0.1))
    expect(page.get_by_label("Layer", exact=True)).to_have_value(re.compile(r"2: image, images/drawing_"))
    (tmp_path / "x.png").write_bytes(PNG)
    page.set_input_files("input[type=file][accept='image/*']", tmp_path / "x.png")
    expect(page.get_by_label("Layer", exact=True)).to_have_value(re.compile(r"3: image, images/upload_"))
    page.get_by_role("button", name="Down", exact=True).click()
    expect(page.get_by_label("Layer", exact=True)).to_have_value(re.compile(r"2: image, images/upload_"))
    for left in (2, 1):
        page.get_by_role("button", name="Delete the layer").click()
        expect(page.locator("[data-testid^=cell-]", has_text="path: images/")).to_have_count(left - 1)
    assert len(list((runs / "specs" / "images").iterdir())) == 2
    tab(page, "Task")
    expect(text).to_contain_text("{type: line, from: [0.0, 0.625], to: [1.0, 0.625], width: 0.02, color: red}")
    expect(text).not_to_contain_text("path: images/")

    # The shipped judge cannot write questions, and the page says so.
    page.get_by_text("Let a model write questions and prompts").click()
    expect(page.get_by_role("button", name="Write questions for this prompt")).to_be_disabled()
    expect(page.get_by_text("it cannot write")).to_be_visible()


@pytest.mark.nightly
def test_from_a_task_to_a_lora_in_diffusers(page: Any, address: str, runs: Path, tmp_path: Path) -> None:
    from dualproc.ui import task

    written = task.EMPTY.replace("my_task", "sky") + "evaluation: {seeds: 1}\n"
    for path, value in {"train.steps": 40, "train.batch": 2, "train.lr": 0.001, "prompts.eval": ["an owl"]}.items():
        written = task.with_value(written, path, value)
    text = page.locator(".cm-content[data-language=yaml]")
    text.fill(task.with_layers(written, [["line", task.LAYERS["line"]]], "solid", 0.5))
    expect(page.locator(".dp-message").first).to_contain_text("ok: sky")

    # Ask: a question that does not use the line is pointed out.
    tab(page, "Ask")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("tabpanel").locator(".dp-message:visible")).to_be_visible()

    # Train: a reload in the middle finds the fit again; stop, then resume.
    tab(page, "Train")
    page.get_by_role("button", name="Start or resume").click()
    expect(status(page)).to_contain_text(re.compile(r"training: [1-9]"), timeout=SLOW)
    open_page(page, address)
    expect(text).to_contain_text("name: sky")
    tab(page, "Train")
    expect(status(page)).to_contain_text(re.compile(r"training: \d+ of 40"))
    expect(page.locator("svg[role=img]").first).to_be_visible()
    page.get_by_role("button", name="Stop after this step").click()
    expect(status(page)).to_contain_text("resume it to continue", timeout=SLOW)
    done = len((runs / "sky" / "metrics.jsonl").read_text().splitlines())
    assert 0 < done < 40
    page.get_by_role("button", name="Start or resume").click()
    expect(status(page)).to_contain_text("finished: 40 training steps", timeout=SLOW)
    expect(page.get_by_text("after step 40: base above trained")).to_be_visible()

    # Runs: base and trained image, the report, the LoRA in plain diffusers.
    tab(page, "Runs")
    expect(page.get_by_role("gridcell", name="40 of 40")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a cartoon of an owl")
    page.get_by_role("button", name="Draw").last.click()
    expect(page.get_by_text("sky, strength 1, seed 3")).to_be_visible()
    page.get_by_role("button", name="Report or comparison").click()
    expect(page.frame_locator("iframe.dp-page").locator("h1")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the LoRA").or_(page.get_by_text("Download the LoRA")).first.click()
    download.value.save_as(tmp_path / "pytorch_lora_weights.safetensors")

    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained("dualproc/weights/generator", dtype=torch.float32)
    pipe.load_lora_weights(tmp_path)
    assert pipe.get_active_adapters() == ["default_0"]

    # Delete asks first.
    page.get_by_role("button", name="Delete...").click()
    page.get_by_role("button", name="Keep them").click()
    assert (runs / "sky" / "metrics.jsonl").exists()
    page.get_by_role("button", name="Delete...").click()
    page.get_by_role("button", name="Yes, delete").click()
    expect(page.get_by_text("deleted: sky")).to_be_visible()
    assert not (runs / "sky" / "metrics.jsonl").exists()


def test_page_fits_a_phone_and_every_field_has_a_label(page: Any) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    unlabelled = page.evaluate(
        "[...document.querySelectorAll('input, textarea, select')].filter(e => e.checkVisibility() && "
        "!(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.closest('.cm-editor'))"
        ".map(e => e.outerHTML.slice(0, 200))"
    )
    assert unlabelled == []
