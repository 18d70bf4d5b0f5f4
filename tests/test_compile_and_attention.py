"""`compile` and packed attention: the same results and gradients as without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_judges import save
from small_models import trained
from small_pipelines import small
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend

from dualproc.kit.blocks import recomputed_blocks, repeated_blocks
from dualproc.plugins.judges._attention import NAME, packed_attention
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.spec import Lora
from dualproc.types import Question

PROMPTS, SEEDS = ["a cat", "a big red house on the hill"], [0, 2]
QUESTIONS = [[Question("Is it dark?"), Question("Is the image a drawing of a cat or a dog?")]] * 2
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Compiles forward and backward passes without generating code, which takes minutes; the sizes of all graphs."""
    sizes: list[int] = []
    compile_with, traced = torch.compile, lookup_backend("aot_eager")

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        sizes.append(len(graph.graph.nodes))
        return traced(graph, inputs)

    monkeypatch.setattr(torch, "compile", lambda function: compile_with(function, backend=backend))
    torch._dynamo.reset()
    yield sizes
    torch._dynamo.reset()


def of_generator(compiled: bool, *, family: str, checkpointing: bool) -> tuple[Tensor, Tensor]:
    """The images of a training sample, and the gradient of the LoRA."""
    generator = small(family, compile=compiled, checkpointing=checkpointing, steps=1)
    weights = trained(generator, Lora(rank=2, targets=("to_q",)))
    images = generator.sample(PROMPTS, SEEDS, grad=True).images
    images.square().mean().backward()
    return images.detach(), torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])


def of_judge(compiled: bool, folder: Path, *, checkpointing: bool) -> tuple[Tensor, Tensor]:
    """The answers to two questions about two images, and the gradient of the pixels."""
    params = {"model": str(folder), "device": "cpu", "compile": compiled, "checkpointing": checkpointing}
    judge = TransformersJudge(TransformersJudge.Params(**params))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    answers = judge.answer_log_likelihoods(images, QUESTIONS).log_likelihoods
    return answers.detach(), torch.autograd.grad(answers[..., 0].sum(), images)[0]


@pytest.mark.parametrize(("family", "checkpointing"), [("flux", False), ("sd", True)])
def test_a_compiled_generator_has_the_same_gradient(graphs: list[int], family: str, checkpointing: bool) -> None:
    plain = of_generator(False, family=family, checkpointing=checkpointing)
    assert not graphs
    compiled = of_generator(True, family=family, checkpointing=checkpointing)
    assert max(graphs) > 100  # a whole block
    torch.testing.assert_close(compiled, plain, **CLOSE)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_judge_has_the_same_gradient(graphs: list[int], checkpointing: bool, tmp_path: Path) -> None:
    folder = save("llava-1.5", tmp_path)
    plain = of_judge(False, folder, checkpointing=checkpointing)
    assert not graphs
    compiled = of_judge(True, folder, checkpointing=checkpointing)
    assert max(graphs) > 40
    torch.testing.assert_close(compiled, plain, **CLOSE)
