"""Make the screenshots of docs/ui.md: `dp ui` in Chromium, with a short fit of the shipped spec `horizon`.

    python -m tools.ui_screenshots             write docs/images/ui_*.png
    python -m tools.ui_screenshots --out DIR   write them elsewhere, also at 375 pixels and in dark colours
    python -m tools.ui_screenshots --no-train  only of the pages that need no training

Needs the extra `ui`, `pip install playwright`, and Chromium. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs" / "images"
STEPS = 40
SETTINGS = {"train.steps": STEPS, "train.preview": {"every": 10}, "evaluation": {"seeds": 2}}
COLOURS = 128
"""Colours of the PNG files, which keeps them small."""


def main() -> None:
    """Write the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-train", action="store_true")
    options = parser.parse_args()
    out: Path | None = options.out
    trained = not options.no_train
    from playwright.sync_api import sync_playwright

    from dualproc.ui.page import serve

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        out = None if out is None else out.resolve()
        os.chdir(folder)  # the page shows the runs folder as it was given
        app, address = serve(Path("runs"), host="127.0.0.1", port=None, browser=False, block=False)
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            _choose(page, address)
            if trained:
                _train(page)
            names = ["Task", "Visual prompt", "Train"] if out is None else PAGES
            names = names if trained else names[:2]
            _shoot(page, out or DOCS, "ui", names)
            for width, scheme in ((375, "light"), (1280, "dark")) if out is not None else ():
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme=scheme)
                page.goto(address)
                page.wait_for_timeout(3000)
                _shoot(page, out, f"ui_{width}_{scheme}", names)
        finally:
            browser.close()
            app.close()


PAGES = ["Task", "Visual prompt", "Ask", "Train", "Runs"]


def _choose(page: Any, address: str) -> None:
    """Start from `horizon`, variant low, and shorten it."""
    from dualproc.ui.task import with_value

    page.set_default_timeout(900_000)
    page.goto(address)
    page.locator(".dp-message", has_text="ok: ").first.wait_for()
    page.get_by_label("Start from", exact=True).click()
    page.get_by_role("option", name=re.compile(r"^horizon: ")).click()
    page.get_by_label("Variant", exact=True).click()
    page.get_by_role("option", name="low", exact=True).click()
    from dualproc.spec import shipped_specs

    text = shipped_specs()["horizon"].read_text(encoding="utf-8")
    for path, value in SETTINGS.items():
        text = with_value(text, path, value)
    page.locator(".cm-content[data-language=yaml]").fill(text)
    page.wait_for_timeout(3000)


def _train(page: Any) -> None:
    """Train the task."""
    _open(page, "Train")
    page.get_by_role("button", name="Start or resume").click()
    page.locator(".dp-message", has_text=f"finished: {STEPS}").wait_for()


def _open(page: Any, name: str) -> None:
    """Open a page; on a narrow screen, the last ones are in a menu."""
    menu = page.locator(".overflow-menu > button")
    tab = page.get_by_role("tab", name=name, exact=True)
    if menu.is_visible() and page.locator(".overflow-dropdown button", has_text=name).count():
        menu.click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        tab.click()


def _shoot(page: Any, out: Path, prefix: str, names: list[str]) -> None:
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        _open(page, name)
        page.wait_for_timeout(4000)
        if name == "Visual prompt":
            page.locator(".dp-canvas img").wait_for()
            page.get_by_role("gridcell", name="Is this still").wait_for()
        if name in ("Ask", "Runs"):
            page.get_by_role("button", name="Ask" if name == "Ask" else "Draw", exact=True).last.click()
            page.wait_for_timeout(12_000)
        image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        image.quantize(COLOURS).save(out / f"{prefix}_{name.split()[0].lower()}.png", optimize=True)


if __name__ == "__main__":
    main()
