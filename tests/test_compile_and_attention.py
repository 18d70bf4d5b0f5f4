"""`compile` and packed attention: the same results and gradients as without."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_judges
import torch
from small_judges import save
from small_models import trained
from small_pipelines import small
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend
from transformers import AttentionInterface

from dualproc.errors import PluginError
from dualproc.plugins.judges._attention import NAME, has_kernel, pack_attention, packed_attention
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

    monkeypatch.setattr(torch, "compile", lambda block, **how: compile_with(block, backend=backend, **how))
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
    judge.answer_log_likelihoods(images, [[question] for question, _ in QUESTIONS])  # tokens of another number
    answers = judge.answer_log_likelihoods(images, QUESTIONS).log_likelihoods
    return answers.detach(), torch.autograd.grad(answers[..., 0].sum(), images)[0]


@pytest.mark.parametrize(("family", "checkpointing"), [("flux", False), ("sd", True)])
def test_a_compiled_generator_has_the_same_gradient(graphs: list[int], family: str, checkpointing: bool) -> None:
    plain = of_generator(False, family=family, checkpointing=checkpointing)
    assert not graphs
    compiled = of_generator(True, family=family, checkpointing=checkpointing)
    assert max(graphs) > 100  # a whole block
    torch.testing.assert_close(compiled, plain, **CLOSE)


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_a_compiled_judge_has_the_same_gradient(graphs: list[int], checkpointing: bool, tmp_path: Path) -> None:
    folder = save("llava-1.5", tmp_path)
    plain = of_judge(False, folder, checkpointing=checkpointing)
    assert not graphs
    compiled = of_judge(True, folder, checkpointing=checkpointing)
    assert max(graphs) > 40
    torch.testing.assert_close(compiled, plain, **CLOSE)


def test_packed_attention_equals_attention_window_by_window() -> None:
    """Two images of different sizes, whose windows at the edges are smaller than the others."""
    model, _ = small_judges.qwen2_5_vl()
    small_judges.randomize(model)
    encoder = model.model.visual
    encoder.window_size = 4 * small_judges.PATCH
    grid = torch.tensor([[1, 6, 10], [1, 4, 6]])  # patches
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * small_judges.PATCH**2, generator=rng, requires_grad=True)
    lengths: list[list[int]] = []

    def encoded() -> tuple[Tensor, Tensor]:
        features = encoder(pixels, grid_thw=grid).pooler_output
        (gradient,) = torch.autograd.grad(features.square().sum(), pixels)
        return features.detach(), gradient

    def counted(module: nn.Module, *tensors: Any, cu_seq_lens_q: Tensor, **more: Any) -> tuple[Tensor, None]:
        lengths.append(cu_seq_lens_q.diff().tolist())
        return packed_attention(module, *tensors, cu_seq_lens_q=cu_seq_lens_q, **more)

    one_by_one = encoded()
    pack_attention(model)
    assert {block.attn.config._attn_implementation for block in encoder.blocks} == {NAME}
    assert model.config.text_config._attn_implementation == "sdpa"
    AttentionInterface.register(NAME, counted)
    packed = encoded()
    AttentionInterface.register(NAME, packed_attention)
    windows, images = lengths
    assert images == [60, 24]
    assert len(windows) > 6
    assert len(set(windows)) > 1
    torch.testing.assert_close(packed, one_by_one, **CLOSE)


@pytest.mark.parametrize(
    ("major", "dtype", "width", "expected"),
    [
        (9, torch.bfloat16, 80, True), (8, torch.float16, 80, True), (7, torch.float16, 80, False),
        (9, torch.float32, 80, False), (9, torch.bfloat16, 84, False),
    ],
)  # fmt: skip
def test_gpus_and_tensors_without_a_kernel_for_packed_sequences_are_known(
    monkeypatch: pytest.MonkeyPatch, major: int, dtype: torch.dtype, width: int, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    query: Any = SimpleNamespace(is_cuda=True, dtype=dtype, shape=(1, 2, 10, width), device="cuda:0")
    assert has_kernel(query) is expected
    assert not has_kernel(torch.zeros(1, 2, 10, width, dtype=dtype))


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_flash_attention_without_its_package_is_refused(tmp_path: Path) -> None:
    folder = save("llava-1.5", tmp_path)
    with pytest.raises(PluginError, match="flash"):
        TransformersJudge(TransformersJudge.Params(model=str(folder), device="cpu", attention="flash"))
    with pytest.raises(PluginError, match="attention: flash is not possible for FluxTransformer2DModel"):
        small("flux", attention="flash")


def test_flash_attention_that_a_unet_would_ignore_is_refused() -> None:
    with pytest.raises(PluginError, match="attention: flash is not possible for UNet2DConditionModel: its attention"):
        small("sd", attention="flash")
