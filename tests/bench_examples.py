"""Finished runs of a bench, made without training, for the tests of its table, its gallery and its publication."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from run_examples import SPEC, evaluation
from safetensors.torch import save_file

from dualproc.report import write_samples
from dualproc.report.bench import BenchRow, read_result
from dualproc.run import Outcome, RunFolder
from dualproc.run.folder import WEIGHTS


def outcome(**changes: Any) -> Outcome:
    """The outcome of four training steps."""
    return Outcome(**({"steps": 4, "lora_step": 4, "stopped": None, "interrupted": False, "seconds": 42.4,
                       "wall_seconds": 60.0, "peak_memory": 1_234_000_000} | changes))  # fmt: skip


def save_lora(run: RunFolder) -> None:
    """Write a file as a LoRA: only finished runs have one."""
    run.write_lora(lambda folder: save_file({"part.a": torch.ones(2)}, folder / WEIGHTS))


def finished(folder: Path, *, fit: Outcome | None = None, **trained: Any) -> Path:
    """A finished run of four images of 8 x 8 pixels: brown, lighter after training, each with one odd pixel."""
    env = {"cpu_count": 2, "torch": "2.9.0"}
    with RunFolder.create(folder, spec_text=SPEC, resolved_text=SPEC, env=env) as run:
        measured = evaluation(**trained)
        run.write_evaluation(measured)
        base = torch.tensor([0.4, 0.2, 0.0])[:, None, None].repeat(4, 1, 8, 8)
        base[:, :, 0, 0] = 0.0
        texts = [prompt.text for prompt in measured.prompts]
        write_samples(run.samples, base, base + 0.4, prompts=texts, seeds=measured.seeds, judge_view=base + 0.6)
        save_lora(run)
        run.write_outcome(fit or outcome())
    return folder


def row(folder: Path, *, name: str = "line_weight", variant: str | None = "thick", **trained: Any) -> BenchRow:
    """The row of a finished run, made in `folder`; `trained` changes the trained generator's measurements."""
    return BenchRow(name, variant, folder.name, read_result(finished(folder, **trained)))
