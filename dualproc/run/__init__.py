"""What a fit leaves behind: the run folder, its pictures, model card and report."""

from .card import render_card, write_card
from .checkpoints import Checkpoint
from .environment import environment, peak_memory
from .folder import RunFolder
from .grids import before_after_grid, sheet
from .inputs import portable
from .outcome import Outcome
from .pictures import write_pictures, write_samples
from .report import render_report, write_report
from .summary import Row, alarms, headline, picture_columns, picture_rows, summary_rows

__all__ = [
    "Checkpoint", "Outcome", "Row", "RunFolder", "alarms", "before_after_grid", "environment", "headline",
    "peak_memory", "picture_columns", "picture_rows", "portable", "render_card", "render_report", "sheet",
    "summary_rows", "write_card", "write_pictures", "write_report", "write_samples",
]  # fmt: skip
