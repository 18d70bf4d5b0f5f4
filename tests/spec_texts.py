"""Small valid specs, and helpers that write and load specs."""

from __future__ import annotations

from pathlib import Path

from dualproc.errors import Problem
from dualproc.spec import LoadedSpec, read_spec

SMALL = """\
name: small
prompts: {template: "a cartoon of {subject}", train: [a cat, a dog], eval: [an owl]}
question: {template: "Is it red?"}
visual_prompt: {jitter: {y: [-0.1, 0.1]}, layers: [{type: small}]}
generator: {type: small}
judge: {type: small}
reward: {type: small}
referee: {type: small-referee}
scorers: [{type: small}]
anchor: {type: small}
train: {steps: 4, batch: 1, lr: 1e-3, checkpoint_every: 1, lora: {rank: 2}, watch: {every: 1, images: 1}}
evaluation: {seeds: 1}
"""
"""A spec of the plugins in tests/fake_plugins/small, whose training step takes milliseconds."""
SPEC = """\
schema_version: 1
name: lines
description: Lines of {width}.
prompts:
  template: a cartoon of {subject}
  train: [a cat, a dog]
  eval: [an owl]
question:
  template: Is the line of {subject} {width} wide?
  answer: Yes
preserve: {template: "Is this a drawing of {prompt}?"}
reward: {type: yes_no_gap}
visual_prompt:
  jitter: {y: [-0.05, 0.02]}
  layers:
    - {type: line, from: [0, 1], width: "{width}", color: red}
variants:
  thin: {width: 0.016}
  thick: {width: 0.042}
referee: {type: other}
scorers: [{type: line_weight, target: "{width}"}]
anchor: {type: base_denoise, weight: 2}
train: {lr: 1e-4, lora: {strength: 5}, stop: {patience: 5}}
"""

PLAIN = """\
schema_version: 1
name: plain
prompts: {train: [a cat, a dog], eval: [an owl]}
question: {template: "Is it {prompt}?"}
"""


def write(folder: Path, text: str, name: str = "spec.yaml") -> Path:
    """Write a text to `folder/name`, and return the path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *overrides: str, variant: str | None = None) -> LoadedSpec:
    """Write a spec to `folder/spec.yaml`, and read it."""
    return read_spec(write(folder, text), overrides=overrides, variant=variant)


def only(loaded: LoadedSpec) -> Problem:
    """The only problem of a spec; fails the test if there are none or several."""
    assert loaded.spec is None
    assert len(loaded.problems) == 1, "\n".join(map(str, loaded.problems))
    return loaded.problems[0]
