"""Offloaded weights: the same results and gradients, computed from copies that are released after use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_judges
import torch
from pydantic import ValidationError
from small_models import trained
from small_pipelines import small
from torch.utils._python_dispatch import TorchDispatchMode

from dualproc.engine import lora
from dualproc.kit.blocks import recomputed_blocks, repeated_blocks
from dualproc.kit.offload import Order, _into_one_buffer, _page_locked, _views, offload
from dualproc.plan.ledger import Account, Ledger
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.presets import TINY
from dualproc.plugins.judges.presets import TINY as JUDGE
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.spec import Lora
from dualproc.types import Question


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Observes all torch operations, and accounts for the memory of copies of the given weights."""

    def __init__(self, weights: list[torch.nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self.ledger = Ledger()
        self.made = 0

    @property
    def memory(self) -> Account:
        return self.ledger.accounts["copies"]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)
        if copies and args[0].untyped_storage().data_ptr() in self.weights:
            self.ledger.add(out, "copies")
            self.made += 1
        return out


def frozen_weights(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Those that stay in main memory."""
    return [weight for block in repeated_blocks(module) for weight in block.parameters() if not weight.requires_grad]


def tiny_with_lora(**changes: object) -> tuple[DiffusersGenerator, list[torch.nn.Parameter]]:
    """The shipped generator with a LoRA that changes the images, and the LoRA's weights."""
    generator = DiffusersGenerator(DiffusersGenerator.Params(**{**TINY.params, **changes}))
    return generator, trained(generator, Lora(rank=4))


def gradient(generator: DiffusersGenerator, weights: list[torch.nn.Parameter], *, poison: bool = False) -> torch.Tensor:
    """The LoRA's gradient; with `poison`, all frozen weights become nan between forward and backward pass."""
    sample = generator.sample(["a cartoon of a cat"], [1], grad=True)
    if poison:
        with torch.no_grad():
            for part in (generator.adapter_module, generator.pipe.vae):
                for weight in frozen_weights(part):
                    weight.fill_(torch.nan)
    sample.images.square().mean().backward()
    return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return gradient(*tiny_with_lora())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_generator_has_the_same_gradient(plain: torch.Tensor, checkpointing: bool) -> None:
    torch.testing.assert_close(gradient(*tiny_with_lora(offload=True, checkpointing=checkpointing)), plain)


def test_the_backward_pass_reads_the_copies(plain: torch.Tensor) -> None:
    """On a GPU, the weights themselves would be on another device."""
    torch.testing.assert_close(gradient(*tiny_with_lora(offload=True), poison=True), plain)


def test_with_checkpointing_few_copies_are_alive_at_a_time() -> None:
    peaks = []
    for checkpointing in (False, True):
        generator, weights = tiny_with_lora(offload=True, checkpointing=checkpointing)
        with Copies([*frozen_weights(generator.adapter_module), *frozen_weights(generator.pipe.vae)]) as copies:
            gradient(generator, weights)
        peaks.append(copies.memory.peak)
        assert copies.memory.live == 0
    assert 0 < peaks[1] < 0.5 * peaks[0]


def test_a_judge_gives_the_same_answers_and_gradient() -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    asked = [[Question("Is this a drawing of a cat?"), Question("Is the sky blue?")]] * 2
    found = []
    for offloaded in (False, True):
        judge = TransformersJudge(TransformersJudge.Params(**{**JUDGE.params, "offload": offloaded}))
        answers = judge.answer_log_likelihoods(images, asked).log_likelihoods
        found.append((answers.detach(), *torch.autograd.grad(answers[..., 0].sum(), images)))
    torch.testing.assert_close(found[0], found[1])


def test_recomputed_blocks_use_copies_of_their_direct_weights(tmp_path: Path) -> None:
    """InternVL's blocks have weights outside their layers; on a GPU, these are on another device than the inputs."""
    model = str(small_judges.save("internvl3", tmp_path))
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = []
    for both in (False, True):
        judge = TransformersJudge(TransformersJudge.Params(model=model, device="cpu", offload=both, checkpointing=both))
        blocks = [part for part in judge.model.modules() if hasattr(part, "lambda_1")]
        assert blocks
        used_copy: list[bool] = []
        for block in blocks:  # the hook of a child runs while the block computes
            own = block.lambda_1
            block.attention.register_forward_pre_hook(
                lambda *_, block=block, own=own, used=used_copy: used.append(block.lambda_1 is not own)
            )
        answers = judge.answer_log_likelihoods(images, [[Question("Is it dark?")]]).log_likelihoods
        forward = len(used_copy)
        found.append((answers.detach(), *torch.autograd.grad(answers[..., 0].sum(), images)))
        assert forward == len(blocks)
        assert len(used_copy) == (2 * forward if both else forward)  # recomputed in the backward pass
        assert set(used_copy) == {both}
    torch.testing.assert_close(found[0], found[1])


def test_everything_computes_on_the_device() -> None:
    """The device is `meta`, the only one besides the CPU that every machine has."""
    generator = DiffusersGenerator(DiffusersGenerator.Params(**TINY.params))
    calls: list[dict[str, object]] = []
    hook = generator.adapter_module.register_forward_pre_hook(
        lambda _module, _args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    generator.sample(["a cartoon of a cat"], [1])
    hook.remove()
    on_meta = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in calls[0].items()}
    offload(generator.adapter_module, torch.device("meta"))
    in_blocks = {id(weight) for weight in frozen_weights(generator.adapter_module)}
    trained(generator, Lora(rank=4))
    output = generator.adapter_module(**on_meta)[0]
    output.sum().backward()
    for weight in generator.adapter_module.parameters():
        assert weight.device.type == ("cpu" if id(weight) in in_blocks else "meta")
        assert (weight.grad is not None) == weight.requires_grad


def test_the_optimiser_state_of_a_checkpoint_is_put_on_the_device_of_the_lora() -> None:
    """A checkpoint is read into main memory; the device is `meta`, which every machine has."""
    generator = DiffusersGenerator(DiffusersGenerator.Params(**TINY.params))
    offload(generator.adapter_module, torch.device("meta"))
    weights = lora.attach(generator.adapter_module, Lora(rank=4), generator.lora_targets, seed=0)
    optimiser = torch.optim.AdamW(weights)
    kept = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)}
    optimiser.load_state_dict({**optimiser.state_dict(), "state": dict.fromkeys(range(len(weights)), kept)})
    for weight in weights:
        assert weight.is_meta
        assert optimiser.state[weight]["exp_avg"].is_meta


def test_weights_in_one_buffer_are_views_of_it() -> None:
    sizes = {(3, 5): torch.float32, (7,): torch.bfloat16, (): torch.float32, (2, 2): torch.float16}
    weights = [torch.nn.Parameter(torch.randn(size).to(dtype)) for size, dtype in sizes.items()]
    before = [weight.detach().clone() for weight in weights]
    buffer = _into_one_buffer(weights)
    copy = buffer.clone()
    assert all(map(torch.equal, weights, before))
    buffer.zero_()
    assert not any(weight.any() for weight in weights)
    assert all(map(torch.equal, _views(copy, weights), before))


def test_memory_that_cannot_be_page_locked_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA keeps the error until torch's next kernel, which must not be one of the training."""
    kernels: list[Any] = []

    def fails(*_: Any, device: str) -> None:
        kernels.append(device)
        raise RuntimeError("CUDA error: out of memory")

    buffer = torch.ones(8, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=lambda *_: 2))
    monkeypatch.setattr(torch, "zeros", fails)
    assert _page_locked(buffer) is buffer
    assert kernels == ["cuda"]


@pytest.mark.parametrize("forward", [[0, 1, 2, 3, 4], [2, 0, 3, 1, 4]], ids=["as listed", "U-Net"])
def test_the_next_block_is_known_after_one_training_step(forward: list[int]) -> None:
    """A step is two forward passes and the recomputation of the second one, from its end."""
    step, order = [*forward, *forward, *reversed(forward)], Order()
    first, second, third = ([order.after(index) for index in step] for _ in range(3))
    right = [guess == index for guess, index in zip(third, [*step[1:], step[0]], strict=True)]
    assert second[1:] == third[1:]
    assert right.count(False) == 2  # at the ends of the forward passes, after which the one or the other follows
    assert forward[0] != 0 or first[:4] == [1, 2, 3, 4]


def test_parts_that_a_unet_recomputes_one_by_one_make_their_own_copies() -> None:
    """Checkpointing calls them without the block around them, which would leave their weights in main memory."""
    unet = small("sd").adapter_module
    kinds = {type(block).__name__ for block in recomputed_blocks(unet)}
    assert kinds == {"ResnetBlock2D", "BasicTransformerBlock", "Downsample2D", "Upsample2D"}
    transformer = small("flux").adapter_module
    assert recomputed_blocks(transformer) == repeated_blocks(transformer)


def test_reloaded_text_encoders_are_offloaded() -> None:
    generator = small("sd3", offload=True)

    def copies_made() -> dict[str, int]:
        """How many copies of its weights each text encoder computes with."""
        pipe, made = generator.pipeline(), {}
        for name, part in pipe.components.items():
            if name.startswith("text_encoder"):
                with Copies(frozen_weights(part)) as copies:
                    pipe.encode_prompt("a cat", None, None)
                made[name] = copies.made
                assert copies.memory.live == 0
        return made

    before = copies_made()
    assert len(before) == 3
    assert all(before.values())
    generator.prepare(["a cat"])
    assert generator.encoders.released
    assert copies_made() == before


@pytest.mark.parametrize("plugin", [DiffusersGenerator, TransformersJudge])
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_offload_with_quantize_is_refused(plugin: type[DiffusersGenerator | TransformersJudge], bits: str) -> None:
    with pytest.raises(ValidationError, match="`offload` and `quantize` cannot be set together"):
        plugin.Params.model_validate({"model": "any", "offload": True, "quantize": bits})
    plugin.Params.model_validate({"model": "any", "quantize": bits})
