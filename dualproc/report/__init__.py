"""How runs and benches are presented: report, model card, images side by side, tables. `dualproc.run` stores them."""

from .card import render_card, write_card
from .grids import before_after_grid, sheet
from .html import charts_css, render_curves, render_report, result_html, write_report
from .lora_header import lora_facts
from .samples import write_preview, write_samples, write_strips
from .summary import (
    Row,
    Verdict,
    alarms,
    headline,
    image_columns,
    image_rows,
    memory_used,
    outcome,
    step_note,
    summary_rows,
    verdict,
)

__all__ = [
    "Row", "Verdict", "alarms", "before_after_grid", "charts_css", "headline", "image_columns", "image_rows",
    "lora_facts", "memory_used", "outcome", "render_card", "render_curves", "render_report", "result_html", "sheet",
    "step_note", "summary_rows", "verdict", "write_card", "write_preview", "write_report", "write_samples",
    "write_strips",
]  # fmt: skip
