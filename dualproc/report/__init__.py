"""How runs and benches are presented: report, model card, images side by side, tables. `dualproc.run` stores them."""

from .card import render_card, write_card
from .grids import before_after_grid, sheet
from .html import render_report, write_report
from .lora_header import lora_facts
from .samples import write_samples
from .summary import Row, alarms, headline, image_columns, image_rows, memory_used, summary_rows

__all__ = [
    "Row", "alarms", "before_after_grid", "headline", "image_columns", "image_rows", "lora_facts", "memory_used",
    "render_card", "render_report", "sheet", "summary_rows", "write_card", "write_report", "write_samples",
]  # fmt: skip
