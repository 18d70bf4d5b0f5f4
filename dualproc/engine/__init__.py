"""The method: the training loop, the LoRA, the evaluation, and the fit that runs them from start to run folder."""

from __future__ import annotations

from .engine import Engine
from .evaluate import evaluate
from .fit import FitResult, Progress

__all__ = ["Engine", "FitResult", "Progress", "evaluate"]
