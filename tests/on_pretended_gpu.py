"""What tests/test_pretended_gpu.py runs on the pretended GPU, in a process of its own.

    python tests/on_pretended_gpu.py "plain generators/flux" ...     # all `CASES`, if none is named

Prints lines of JSON: first the names of the cases that it runs, then what each one found. torch (2.15) ends the process
when an operation is refused in a backward pass, so that a line may be missing; the error is on stderr then.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import small_judges
import small_pipelines
import torch
from pretended_gpu import Traffic, pretended_gpu
from small_models import trained

from dualproc import Engine, load_spec, registry
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.run import RunFolder
from dualproc.spec import Lora
from dualproc.types import Question

MODES: dict[str, dict[str, bool]] = {
    "plain": {},
    "checkpointing": {"checkpointing": True},
    "offload": {"checkpointing": True, "offload": True},
}
"""How each family is loaded; `offload` needs `checkpointing` to save memory."""
SCHEDULERS = {"flux-dev", "sd-pndm", "sdxl-turbo"}
"""Families that differ from another one by scheduler or guidance only: loaded plainly only."""
PROMPTS = ["a cat", "a big red house on the hill"]
LAST = 0
"""A seed whose training sample has both of its sampling steps."""
SPEC = Path(__file__).parents[1] / "specs" / "line_weight.yaml"
SPEC_CHANGES = (
    "train.steps=2", "train.batch=2", "train.watch.every=2", "train.watch.images=2", "evaluation.seeds=2",
    "prompts.eval=[a duck]",
)  # fmt: skip

Found = dict[str, Any]


def refuses_and_counts(traffic: Traffic) -> Found:
    here = torch.ones(3, device="gpu")
    assert str((2 * here).device) == "gpu:0"
    with pytest.raises(RuntimeError, match="same device"):
        here + torch.ones(3)
    assert not traffic.waits
    here.sum().item()
    here.cpu()
    here[here > 0]
    assert sum(traffic.waits.values()) == 3
    assert not traffic.copies
    torch.ones(3).to("gpu:0")
    assert sum(traffic.copies.values()) == 1
    return {}


def same_numbers(_traffic: Traffic) -> Found:
    """A generator and a judge give the same images, answers and gradient as on the CPU."""
    ours, theirs = (numbers(device) for device in ("auto", "cpu"))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    return {}


def numbers(device: str) -> list[torch.Tensor]:
    made = small_pipelines.small("flux", device=device)
    weights = trained(made, Lora(rank=2))
    images = made.sample(PROMPTS[:1], [1], grad=True).images
    asked = TransformersJudge(TransformersJudge.Params(model=saved_judge("llava-1.5").name, device=device))
    answers = asked.answer_log_likelihoods(images, [[Question("Is it dark?")]]).log_likelihoods
    answers[..., 0].sum().backward()
    gradient = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    return [each.detach().cpu() for each in (images, answers, gradient)]


def generator(traffic: Traffic, *, family: str, mode: str) -> Found:
    """A training sample and its backward pass; in most modes also all that an evaluation draws."""
    made = small_pipelines.small(family, device="auto", **MODES[mode])
    made.prepare(PROMPTS)
    weights = trained(made, Lora(rank=2, targets=(made.lora_targets[0],)))
    traffic.waits.clear()
    sample = made.sample(PROMPTS, [LAST, 2], grad=True)
    sample.images.square().mean().backward()
    waits = dict(traffic.waits)
    if mode != "checkpointing":  # which does nothing without a gradient
        with torch.no_grad():
            drawn = made.sample(PROMPTS, [5, 6])
            made.denoise(drawn.latents, 0.3, PROMPTS, [5, 6])
    gradient = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    return {"waits": waits, "apart": from_plain(f"generators/{family}", gradient)}


def judge(traffic: Traffic, *, family: str, mode: str) -> Found:
    """Two questions about two images, the gradient of the answers, and an answer in words."""
    params = {"model": saved_judge(family).name, "dtype": "float32", "device": "auto", **MODES[mode]}
    made = TransformersJudge(registry.load("judges", family).params(params))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to("gpu").requires_grad_()
    asked = [[Question("Is it dark?"), Question("Is this a drawing of a cat, or is it one of a dog?")]] * 2
    if mode == "plain":
        made.answer_log_likelihoods(images, asked)  # tokenizes the questions, which waits once
    traffic.waits.clear()
    answers = made.answer_log_likelihoods(images, asked).log_likelihoods
    (gradient,) = torch.autograd.grad(answers[..., 0].sum(), images)
    waits = dict(traffic.waits)
    if mode != "checkpointing":  # which does nothing without a gradient
        made.generate(images.detach(), ["Is it dark?"] * 2, max_new_tokens=2)
    return {"waits": waits, "apart": from_plain(f"judges/{family}", gradient)}


def fit(traffic: Traffic) -> Found:
    """A fit of the demo, from the training to the run folder; then another step, continued from its checkpoint."""
    spec = load_spec(SPEC, variant="thick", overrides=SPEC_CHANGES)
    engine = Engine(spec)
    with tempfile.TemporaryDirectory() as folder:
        result = engine.fit(Path(folder) / "run")
        run = RunFolder.open(result.run)
        checked = [record.referee is not None for record in run.metrics()]
        checkpoint = run.latest_checkpoint()
        assert checkpoint is not None
        files = sorted(path.name for path in result.run.iterdir())
        images = (result.run / "samples" / "before_after.png").exists()
    engine.restore(checkpoint.tensors, checkpoint.state)
    devices = sorted({str(weight.device) for weight in engine.weights})
    traffic.waits.clear()
    engine.step()
    return {"files": files, "images": images, "checked": checked, "devices": devices, "waits": dict(traffic.waits)}


plain: dict[str, torch.Tensor] = {}
"""The gradient of each model that was loaded plainly."""


def from_plain(name: str, gradient: torch.Tensor) -> float:
    """Distance of a gradient from that of the same model loaded plainly, as a share of its norm."""
    gradient = gradient.detach().cpu()
    expected = plain.setdefault(name, gradient)
    return float((gradient - expected).norm() / expected.norm())


@cache
def saved_judge(family: str) -> tempfile.TemporaryDirectory[str]:
    """A folder with a family's small judge, removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="small-")
    small_judges.save(family, Path(folder.name))
    return folder


CASES: Mapping[str, Callable[[Traffic], Found]] = {
    "refuses and counts": refuses_and_counts,
    "same numbers": same_numbers,
    "fit": fit,
    **{
        f"{mode} {kind}/{family}": partial(check, family=family, mode=mode)
        for kind, check, families in (
            ("generators", generator, small_pipelines.FAMILIES),
            ("judges", judge, small_judges.FAMILIES),
        )
        for family in families
        for mode in MODES
        if mode == "plain" or family not in SCHEDULERS
    },
}


def run(name: str) -> Found:
    """What one case finds; `error` has the traceback of what it raised, `skipped` the package that it lacks."""
    with pretended_gpu() as traffic:
        try:
            return CASES[name](traffic)
        except (ImportError, pytest.skip.Exception) as error:
            return {"skipped": str(error)}
        except Exception:
            return {"error": traceback.format_exc()}


if __name__ == "__main__":
    gc.freeze()  # the modules: models are released often, and each time the garbage collector would search them
    wanted = sys.argv[1:] or list(CASES)
    print(json.dumps(wanted), flush=True)
    for each in wanted:
        print(json.dumps(run(each)), flush=True)
    gc.unfreeze()
