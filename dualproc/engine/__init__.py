"""The engine: the loop that distils, the proof of what was learnt, and what is left behind."""

from __future__ import annotations

from .evaluate import evaluate
from .fit import FitResult, Progress
from .loop import Engine

__all__ = ["Engine", "FitResult", "Progress", "evaluate"]
