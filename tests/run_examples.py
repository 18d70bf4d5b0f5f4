"""Small evaluations, step records and a spec, shared by the tests of `dualproc.run` and `dualproc.report`."""

from __future__ import annotations

import math
from typing import Any

from dualproc.types import Evaluation, Measurement, Prompt, Score, StepRecord

SPEC = """\
schema_version: 1
name: line_weight
variant: thick
description: Thick lines.
question: {template: "Does the line weight match the red line?", suffix: Answer with Yes or No., answer: Yes}
preserve: {template: "Is there {subject}?", answer: Yes}
train: {steps: 4, lr: 1e-4}
"""


ACCEPTED = (0.036, 0.048)


def score(values: tuple[float, ...], **changes: Any) -> Score:
    on_target = (
        None
        if all(map(math.isnan, values))
        else sum(ACCEPTED[0] <= value <= ACCEPTED[1] for value in values) / len(values)
    )
    return Score(**({"name": "line_weight", "unit": "of the height", "better": "target", "values": values,
                     "target": 0.042, "on_target": on_target, "accepted": ACCEPTED} | changes))  # fmt: skip


def measurement(**changes: Any) -> Measurement:
    return Measurement(**({"scores": (score((0.02, 0.03, 0.04, 0.03)),), "judge": (0.2, 0.3, 0.4, 0.3),
                           "referee": (0.1, 0.2, 0.3, 0.2), "preserved": (0.9, 0.9, 0.9, 0.9),
                           "hack_meter": 0.03, "diversity": 0.2,
                           "color_diversity": 20.0, "alike_diversity": 0.19} | changes))  # fmt: skip


def evaluation(base: Measurement | None = None, **trained: Any) -> Evaluation:
    """Four images; the trained ones are on target in three cases, the fourth could not be measured."""
    prompts = tuple(
        Prompt(f"a cartoon of {name}", {"subject": name}) for name in ("an owl", "an owl", "a duck", "a duck")
    )
    better = {"scores": (score((0.041, 0.042, 0.043, math.nan)),), "judge": (0.7, 0.7, 0.8, 0.8),
              "referee": (0.6, 0.7, 0.8, 0.7), "hack_meter": 0.033, "diversity": 0.19,
              "color_diversity": 5.0, "alike_diversity": math.nan}  # fmt: skip
    return Evaluation(prompts, (1, 2, 1, 2), base or measurement(), measurement(**(better | trained)))


def record(step: int, **changes: Any) -> StepRecord:
    return StepRecord(**({"step": step, "loss": 1.0 / step, "reward": 0.5, "p_answer": 0.6, "anchor": 0.03,
                          "grad_norm": 1.0, "seconds": 0.25} | changes))  # fmt: skip
