"""What a fit leaves behind: the run folder, its pictures, model card and report."""

from .card import render_card, write_card
from .checkpoints import Checkpoint
from .environment import environment
from .folder import RunFolder
from .grids import before_after_grid, sheet
from .pictures import write_pictures, write_samples
from .report import render_report, write_report
from .summary import Row, alarms, headline, summary_rows

__all__ = [
    "Checkpoint", "Row", "RunFolder", "before_after_grid", "environment", "headline", "render_card", "render_report",
    "sheet", "alarms", "summary_rows", "write_card", "write_pictures", "write_report", "write_samples",
]  # fmt: skip
