"""The plan: a dry run of the engine, without weights, predicts what a real training step takes."""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from installed import install
from small_judges import save as save_judge
from small_pipelines import FAMILIES as PIPELINES
from small_pipelines import saved
from torch.utils.flop_counter import FlopCounterMode

from dualproc import Engine, TaskSpec, load_spec
from dualproc.cli.memory import Fit, settings_that_fit
from dualproc.errors import DualprocError
from dualproc.plan import switches
from dualproc.plan.dry_run import QUANTIZED, Memory, Observed, Part, Plan, dry_run
from dualproc.plan.hardware import GPUS, gpu_named, seconds
from dualproc.plan.meta_tensors import without_weights
from dualproc.plan.switches import changed_spec, search, switches_of

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "benchmarks" / "configs"
REAL_SIZE = [
    "generator.type=flux-schnell", f"generator.model={CONFIGS / 'flux-schnell'}", "judge.type=qwen2.5-vl",
    f"judge.model={CONFIGS / 'qwen2.5-vl-7b'}", "train.batch=1", "referee=null", "train.stop=null",
]  # fmt: skip
NO_REFEREE = ("referee=null", "train.stop=null")
LIGHT = ("judge.type=light", *NO_REFEREE)
"""Without models that judge: plans of the generator alone take half the time."""
SMALL = (*LIGHT, "train.batch=2")
KNOWN: dict[str, Observed] = {}
"""Dry runs so far: each takes seconds, and tests that plan the same models share one, as `dp plan` does."""


def spec_of(*overrides: str) -> TaskSpec:
    return load_spec(ROOT / "specs" / "line_weight.yaml", variant="thick", overrides=overrides)


def planned(*overrides: str, gpu: bool = False) -> Plan:
    return dry_run(spec_of(*overrides), gpu=gpu, known=KNOWN)


THIRD_PARTY = """
import torch
from pydantic import BaseModel
from dualproc.types import Answers

class Light:
    '''Prefers bright images.'''
    api_version = 1
    class Params(BaseModel, extra="forbid"): pass
    def __init__(self, params): pass
    def answer_log_likelihoods(self, images, questions):
        yes = images.mean((1, 2, 3)).clamp(0.01, 0.99)
        scores = torch.stack([yes, 1 - yes], 1).log()[:, None]
        return Answers(scores, torch.ones(1, 2, dtype=torch.long))
    def generate(self, images, questions, *, max_new_tokens=32):
        return ["Yes"] * len(questions)

class Own:
    '''Makes its weights without from_pretrained.'''
    api_version = 1
    class Params(BaseModel, extra="forbid"): pass
    lora_targets = ["0"]
    def __init__(self, params):
        self.adapter_module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    def prepare(self, *args, **kwargs): pass
    sample = denoise = save_lora = recipe = pipeline = prepare
"""


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Installs `light`, a judge without a model, and `own`, a generator that makes its own weights."""
    points = "[dualproc.judges]\nlight = third_party:Light\n[dualproc.generators]\nown = third_party:Own\n"
    folder = tmp_path_factory.mktemp("third_party")
    with pytest.MonkeyPatch.context() as patch:
        install(folder, "third_party", THIRD_PARTY, points, patch)
        yield folder


@pytest.fixture(scope="module")
def tiny() -> Plan:
    """The plan of the shipped models on the CPU."""
    return planned()


@pytest.fixture(scope="module")
def small(third_party: Path) -> Plan:  # noqa: ARG001
    """The plan of the shipped generator and the judge `light` for a GPU, with a batch of 2."""
    return planned(*SMALL, gpu=True)


@pytest.fixture(scope="module")
def first_loss() -> list[float]:
    """The loss of the engine's first step, once there is an engine."""
    return []


@pytest.fixture(scope="module")
def engine(first_loss: list[float]) -> Engine:
    """The real engine of the shipped models, after one training step."""
    made = Engine(spec_of())
    first_loss.append(made.step().loss)
    return made


def real_costs(engine: Engine) -> tuple[int, int]:
    """Bytes that a real training step keeps for its backward pass, without weights, and its operations."""
    models = [*_modules(engine.generator), *_modules(engine.judge)]
    weights = {weight.untyped_storage()._cdata for model in models for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), FlopCounterMode(display=False) as flops:
        engine.step()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), flops.get_total_flops()


def _modules(plugin: Any) -> list[torch.nn.Module]:
    parts = plugin.pipe.components.values() if hasattr(plugin, "pipe") else [getattr(plugin, "model", None)]
    return [part for part in parts if isinstance(part, torch.nn.Module)]


def assert_plan_matches(spec: TaskSpec) -> None:
    """Activations and operations of the plan are within 10 % of those of a real training step."""
    plan = dry_run(spec, gpu=False)
    kept, operations = real_costs(Engine(spec))
    assert plan.memory["cpu"].activations == pytest.approx(kept, rel=0.1)
    assert sum(plan.operations.values()) == pytest.approx(operations, rel=0.1)


# --- the plan and the real models -------------------------------------------------------------------------------


def test_parameters_and_weights_match_the_real_models(tiny: Plan, engine: Engine) -> None:
    judge: Any = engine.judge
    pipe = engine.generator.pipeline()
    found = {(part.role, part.kind): part for part in tiny.parts}
    real = {
        ("generator", "AutoencoderKL"): pipe.vae, ("generator", "T5EncoderModel"): pipe.text_encoder_2,
        ("judge", "CLIPVisionModel"): judge.model.model.vision_tower, ("judge", "Linear"): judge.model.lm_head,
    }  # fmt: skip
    assert {key: found[key].parameters for key in real} == {
        key: sum(weight.numel() for weight in model.parameters()) for key, model in real.items()
    }
    backbone = engine.generator.adapter_module
    trained = sum(weight.numel() for weight in engine.weights)
    whole = sum(weight.numel() for weight in backbone.parameters())
    assert found["generator", "FluxTransformer2DModel"].parameters == whole - trained
    assert tiny.lora_parameters == trained
    assert {part.kind for part in tiny.parts if not part.stays} == {"CLIPTextModel", "T5EncoderModel"}
    assert not tiny.notes
    staying = sum(part.bytes for part in tiny.parts if part.stays)
    assert tiny.memory["cpu"].weights == pytest.approx(staying, rel=0.01)
    assert tiny.memory["cpu"].lora == 4 * 4 * trained


def test_activations_and_operations_match_a_real_step(tiny: Plan, engine: Engine) -> None:
    """The most expensive one of eight: `base_image` draws base images in half of the steps."""
    kept, operations = map(max, zip(*(real_costs(engine) for _ in range(8)), strict=True))
    assert tiny.memory["cpu"].activations == pytest.approx(kept, rel=0.1)
    assert sum(tiny.operations.values()) == pytest.approx(operations, rel=0.1)
    assert tiny.memory["cpu"].temporaries > 0


@pytest.mark.parametrize("family", ["idefics2", "qwen2.5-vl", "mllama"])
def test_plan_matches_a_real_step_of_other_judges(family: str, tmp_path: Path) -> None:
    folder = save_judge(family, tmp_path / "judge")
    assert_plan_matches(spec_of("judge.type=transformers", f"judge.model={folder}", *NO_REFEREE))


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize("family", ["sd", "sana", "z-image"])
def test_plan_matches_a_real_step_of_other_generators(family: str) -> None:
    """The judge has no model, so all activations and operations are the generator's."""
    settings = {"height": 32, "width": 32, "steps": 1, **PIPELINES[family].params}
    generator = {"type": "diffusers", "model": saved(family).name, **settings}
    assert_plan_matches(changed_spec(spec_of("judge.type=light", *NO_REFEREE), {"generator": generator}))


# --- settings that save memory ----------------------------------------------------------------------------------


def test_checkpointing_saves_activations_and_costs_operations(tiny: Plan, small: Plan) -> None:
    generator = planned(*SMALL, "generator.checkpointing=true", gpu=True)
    assert generator.memory["cuda:0"].activations < 0.3 * small.memory["cuda:0"].activations
    assert sum(generator.operations.values()) > sum(small.operations.values())
    judge = planned(*NO_REFEREE, "judge.checkpointing=true")
    assert judge.memory["cpu"].activations < 0.9 * tiny.memory["cpu"].activations
    assert sum(judge.operations.values()) > sum(tiny.operations.values())


def test_half_the_batch_needs_half_the_activations(small: Plan) -> None:
    whole, half = small.memory["cuda:0"], planned(*LIGHT, "train.batch=1", gpu=True).memory["cuda:0"]
    assert half.activations == pytest.approx(whole.activations / 2, rel=0.1)
    assert half.weights == pytest.approx(whole.weights, rel=0.01)


def test_a_batch_in_parts_needs_the_activations_of_one_part(small: Plan) -> None:
    parts = planned(*SMALL, "train.accumulate=2", gpu=True)
    assert parts.memory["cuda:0"].activations == pytest.approx(small.memory["cuda:0"].activations / 2, rel=0.1)
    assert sum(parts.operations.values()) == pytest.approx(sum(small.operations.values()), rel=0.01)


def test_the_most_expensive_step_is_planned() -> None:
    """Random choices of the first step must not decide whether training fits into memory."""
    full = planned(*NO_REFEREE, "anchor={type: base_image}").memory["cpu"]
    assert planned(*NO_REFEREE, "anchor={type: base_image, share: 0.001}").memory["cpu"] == full
    long = "Does the line weight of the image match the red line overlaid at the bottom?"
    asked, several = (
        {"template": long},
        {"template": "Is the line red?", "paraphrases": ["Is this?", long, "Is a line red?"]},
    )
    plans = [planned(*NO_REFEREE, f"question={json.dumps(question)}") for question in (asked, several)]
    assert plans[0].memory == plans[1].memory


def test_the_average_of_the_weights_takes_memory(tiny: Plan) -> None:
    averaged = planned("train.ema=0.9")
    assert averaged.memory["cpu"].lora == pytest.approx(1.25 * tiny.memory["cpu"].lora)


def test_quantised_weights_are_planned_without_bitsandbytes(tiny: Plan) -> None:
    linear = sum(part.linear for part in tiny.parts if part.role == "judge")
    assert linear > 0
    for bits in ("8bit", "4bit"):
        plan = planned(f"judge.quantize={bits}")
        saved = tiny.memory["cpu"].weights - plan.memory["cpu"].weights
        assert saved == pytest.approx(linear * (1 - QUANTIZED[bits] / 4), rel=0.01)
    vae = next(part for part in planned("generator.quantize=4bit").parts if part.name == "vae")
    assert vae.precision == "float32"


def test_loading_needs_text_encoders_or_judges_but_never_both(tiny: Plan) -> None:
    encoders = sum(part.bytes for part in tiny.parts if not part.stays)
    assert encoders > 0
    memory = tiny.memory["cpu"]
    lora = memory.lora // 4
    assert memory.weights + lora <= memory.loading < memory.weights + lora + encoders
    for role in ("judge", "generator"):
        memory = planned(f"{role}.quantize=4bit", "referee.quantize=4bit").memory["cpu"]
        assert memory.loading >= memory.weights
    generator = planned("judge.device=cuda:1", "referee.device=cuda:1", gpu=True).memory["cuda:0"]
    assert generator.loading >= generator.weights + encoders


def test_memory_is_counted_per_device(tiny: Plan) -> None:
    plan = planned("generator.device=cuda:0", "judge.device=cuda:1", "referee.device=cuda:1")
    assert set(plan.memory) == {"cuda:0", "cuda:1"}
    for device, memory in plan.memory.items():
        staying = sum(part.bytes for part in plan.parts if part.device == device and part.stays)
        # The tolerance is for buffers; the LoRA itself would be four times as large.
        assert memory.weights == pytest.approx(staying, abs=plan.lora_parameters)
    assert sum(memory.weights for memory in plan.memory.values()) == tiny.memory["cpu"].weights
    activations = [memory.activations for memory in plan.memory.values()]
    assert min(activations) > 0
    assert sum(activations) == pytest.approx(tiny.memory["cpu"].activations, rel=1e-3)  # not at the same moment
    assert plan.memory["cuda:1"].lora == 0


@pytest.mark.usefixtures("third_party")
def test_device_names_for_the_same_device_share_one_account() -> None:
    assert set(planned("generator.device=mps").memory) == {"cpu"}
    for name in ("auto", "cuda", "cuda:0"):
        assert set(planned(*SMALL, f"generator.device={name}", gpu=True).memory) == {"cuda:0"}


def test_offloaded_weights_are_on_the_device_only_while_used(small: Plan) -> None:
    plan = planned(*SMALL, "generator.offload=true", "generator.checkpointing=true", gpu=True)
    backbone = next(part for part in plan.parts if part.kind == "FluxTransformer2DModel")
    assert backbone.device == "main memory"
    assert plan.memory["main memory"].weights >= 0.9 * backbone.bytes
    assert plan.memory["cuda:0"].weights < 0.1 * backbone.bytes  # embeddings, buffers, the middle of the VAE
    without_offload = planned(*SMALL, "generator.checkpointing=true", gpu=True)
    # Of this small backbone's three blocks, one is copied ahead while another one is still in use.
    assert plan.peak < without_offload.peak - 0.85 * backbone.bytes + 2 * backbone.block
    assert 2 * backbone.block < 0.75 * backbone.bytes
    assert set(without_offload.memory) == {"cuda:0"}
    # The backbone in four passes (forward, recomputed, and without the LoRA for two anchors), the VAE in three.
    blocks = plan.memory["main memory"].weights
    assert 3.5 * blocks < plan.moved <= 4 * blocks
    assert without_offload.moved == 0
    without_checkpointing = planned(*SMALL, "generator.offload=true", gpu=True)
    # The backward pass keeps all copies of the offloaded weights, so little is saved.
    assert without_checkpointing.peak > 0.85 * small.peak


# --- the dry run ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("third_party")
def test_dry_run_restores_torch(engine: Engine, first_loss: list[float]) -> None:
    def patched() -> tuple[Any, ...]:
        return torch.tensor, torch.Tensor.numpy, torch.nn.functional.scaled_dot_product_attention

    before = patched()
    with pytest.raises(ZeroDivisionError), without_weights():
        _ = 1 / 0
    assert patched() == before
    planned(*LIGHT)
    assert patched() == before
    assert Engine(spec_of()).step().loss == first_loss[0]
    assert not any(weight.is_meta for weight in engine.weights)


@pytest.mark.usefixtures("third_party")
def test_known_dry_run_gives_the_same_plan_as_a_new_one() -> None:
    quantised = (*LIGHT, "generator.quantize=4bit")
    planned(*LIGHT)  # in full precision; the plan of the quantised model is derived from it
    count = len(KNOWN)
    assert planned(*quantised) == dry_run(spec_of(*quantised), gpu=False)
    assert len(KNOWN) == count


@pytest.mark.usefixtures("third_party")
def test_hub_model_is_planned_from_configurations_and_tokenizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache has no weights, and the hub cannot be reached."""
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "abc"
    shutil.copytree(ROOT / "dualproc/weights/generator", snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    plan = planned("generator.model=someone/tiny", *LIGHT)
    assert plan.memory["cpu"].weights == planned(*LIGHT).memory["cpu"].weights > 2e7


def test_unreachable_model_is_an_error() -> None:
    with pytest.raises(DualprocError, match="cannot load the judge"):
        planned("judge.type=transformers", "judge.model=no/such/folder")


@pytest.mark.usefixtures("third_party")
def test_plugins_that_cannot_be_planned_are_reported() -> None:
    plan = planned(*LIGHT)
    assert plan.notes == ("judge: not loaded with `from_pretrained`; its memory is not in the plan",)
    assert plan.memory["cpu"].activations > 0
    with pytest.raises(DualprocError, match="own cannot be planned"):
        planned("generator.type=own", *NO_REFEREE)


# --- the search for settings that fit ---------------------------------------------------------------------------


def test_cheapest_settings_that_fit_are_found(small: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(switches.TINY_VAES, "FluxPipeline", "no/such/autoencoder")  # no download in a test
    groups = switches_of(spec_of(*NO_REFEREE), small, gpu=True)
    keys = {key for group in groups for switch in group for key in switch.values}
    for_models = {
        f"{model}.{key}" for model in ("generator", "judge") for key in ("checkpointing", "offload", "quantize")
    }
    assert {*for_models, "train.accumulate", "generator.height", "generator.reward_vae"} <= keys
    spec, messages = spec_of(*SMALL), list[str]()
    limit = 0.3 * small.peak
    found = search(spec, small, limit, gpu=True, known=KNOWN, everything=True, progress=messages.append)
    first = search(spec, small, limit, gpu=True, known=KNOWN)
    assert first.together == found.together
    assert {trial.flags for trial in first.alone} < {trial.flags for trial in found.alone}
    assert (first.untried, found.untried) == (len(found.alone) - len(first.alone), 0)
    assert len(messages) > len(found.alone) == sum(map(len, switches_of(spec, small, gpu=True)))
    for trial in found.alone:
        assert (trial.plan is None) == ("reward_vae" in trial.flags)
        assert ("no/such/autoencoder" in trial.problem) == (trial.plan is None)
    assert found.together is not None
    assert found.together.plan is not None
    assert found.together.plan.peak <= limit < min(trial.plan.peak for trial in found.alone if trial.plan)
    assert len(found.together.switches) > 1
    assert "checkpointing=true" in found.together.flags
    assert search(spec, small, 1000, gpu=True, known=KNOWN).together is None


def test_the_search_ends_at_the_first_setting_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpointing of the generator, among the cheapest, is enough: nothing that costs more is tried."""
    invent(monkeypatch, lambda on: {"cuda:0": gigabytes(5, 10 if "generator.checkpointing" in on else 30)})
    spec, plans = spec_of(*NO_REFEREE), {}
    for everything in (False, True):
        messages: list[str] = []
        plans[everything] = found = search(
            spec, switches.dry_run(spec, gpu=True), 24e9, gpu=True, everything=everything, progress=messages.append
        )
        assert found.together is not None
        assert found.together.flags == "--set generator.checkpointing=true"
        assert len(messages) == len(found.alone)
    cheapest = {switch.flags for trial in plans[True].alone for switch in trial.switches if switch.price == 1}
    tried = {trial.flags for trial in plans[False].alone}
    assert tried <= cheapest
    assert plans[False].untried == len(plans[True].alone) - len(tried) > 5


def invent(monkeypatch: pytest.MonkeyPatch, memory: Callable[[set[str]], dict[str, Memory]]) -> None:
    """Replace dry runs by `memory`, a function of the keys of the switches that are on."""

    def invented(spec: TaskSpec, **_: Any) -> Plan:
        models = {"generator": spec.generator, "judge": spec.judge}
        on = {f"{name}.{key}" for name, ref in models.items() for key, value in ref.params.items() if value}
        return Plan((), 0, memory(on), {}, 0, "", ())

    monkeypatch.setattr(switches, "dry_run", invented)


def gigabytes(weights: float = 0, activations: float = 0, loading: float = 0) -> Memory:
    return Memory(round(weights * 1e9), 0, round(activations * 1e9), 0, round(loading * 1e9))


def on_two_devices(on: set[str]) -> dict[str, Memory]:
    """Each model's checkpointing saves memory on its own device."""
    return {
        "cuda:0": gigabytes(5, 15 if "generator.checkpointing" in on else 30),
        "cuda:1": gigabytes(5, 15 if "judge.checkpointing" in on else 26),
    }


def in_loading_and_training(on: set[str]) -> dict[str, Memory]:
    """One switch saves memory while loading, the other one in a training step."""
    loading, activations = 30 - 15 * ("generator.quantize" in on), 31 - 15 * ("judge.checkpointing" in on)
    return {"cuda:0": gigabytes(0, activations, loading)}


@pytest.mark.parametrize(("memory", "peak"), [(on_two_devices, 20e9), (in_loading_and_training, 16e9)])
def test_switches_that_help_at_only_one_of_two_peaks_are_combined(
    memory: Callable[[set[str]], dict[str, Memory]], peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    invent(monkeypatch, memory)
    spec = spec_of(*NO_REFEREE)
    found = search(spec, switches.dry_run(spec, gpu=True), 24e9, gpu=True)
    assert found.together is not None
    assert found.together.plan is not None
    assert found.together.plan.peak == peak
    assert len(found.together.switches) == 2


def test_no_model_is_both_offloaded_and_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins refuse both together, even where both would fit."""
    helps = {"generator.offload", "generator.quantize"}
    invent(monkeypatch, lambda on: {"cuda:0": gigabytes(40 - 15 * len(helps & on))})
    spec = spec_of(*NO_REFEREE)
    messages: list[str] = []
    found = search(spec, switches.dry_run(spec, gpu=True), 12e9, gpu=True, progress=messages.append)
    assert found.together is None
    assert all(any(key in message for message in messages) for key in helps)
    assert not any(all(key in message for key in helps) for message in messages)
    plan = found.alone[0].plan
    assert plan is not None
    for chosen, other in itertools.permutations(("offload=true", "quantize=8bit")):
        groups = switches_of(spec_of(f"generator.{chosen}"), plan, gpu=True)
        keys = {key for group in groups for switch in group for key in switch.values}
        assert "generator." + other.partition("=")[0] not in keys
        assert "judge." + other.partition("=")[0] in keys


@pytest.mark.parametrize(("operations", "chosen"), [(10**15, "offload"), (10**12, "quantize")])
def test_offloading_is_chosen_where_its_copies_take_no_longer_than_the_step(
    monkeypatch: pytest.MonkeyPatch, operations: int, chosen: str
) -> None:
    invent(
        monkeypatch, lambda on: {"cuda:0": gigabytes(12 if on & {"generator.offload", "generator.quantize"} else 30)}
    )
    part = Part("generator", "transformer", "", 12 * 10**9, "bfloat16", 24 * 10**9, "cuda:0")
    plan = Plan((part,), 0, {"cuda:0": gigabytes(30)}, {"bfloat16": operations}, 0, "", ())
    found = search(spec_of(*NO_REFEREE), plan, 16e9, gpu=True)
    assert found.together is not None
    assert f"generator.{chosen}" in found.together.flags
    if chosen == "offload":  # nothing was tried that leaves 30 GB of weights on a GPU of 16 GB
        assert all("offload" in trial.flags for trial in found.alone)


@pytest.mark.usefixtures("third_party")
def test_dp_run_refuses_what_does_not_fit_or_sets_what_does(
    small: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    spec, limit = spec_of(*SMALL), 0.8 * small.peak
    # A GPU that is not used is left alone: another process may have reserved it.
    enough: dict[str, Callable[[], float]] = {"cuda:0": lambda: small.peak + 1, "cuda:1": pytest.fail}
    little: dict[str, Callable[[], float]] = {"cuda:0": lambda: limit}
    for gpus, mode in (({}, Fit.check), (enough, Fit.check), (little, Fit.off)):
        assert settings_that_fit(spec, gpus, mode, known=KNOWN) == []
    with pytest.raises(
        DualprocError, match=r"does not fit into GPU memory: cuda:0 needs .*\n  add --set .*\n.*--fit auto"
    ):
        settings_that_fit(spec, little, Fit.check, known=KNOWN)
    found = settings_that_fit(spec, little, Fit.auto, known=KNOWN)
    assert planned(*SMALL, *found, gpu=True).peak <= limit
    assert f"using --set {found[0]}" in capsys.readouterr().err
    with pytest.raises(DualprocError, match="no combination of settings was found"):
        settings_that_fit(spec, {"cuda:0": lambda: 1000}, Fit.auto, known=KNOWN)


@pytest.mark.usefixtures("third_party")
def test_dp_run_trains_what_cannot_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_of("generator={type: own}", *LIGHT)
    assert settings_that_fit(spec, {"cuda:0": lambda: 1e6}, Fit.check, known=KNOWN) == []
    assert "memory was not checked: own cannot be planned" in capsys.readouterr().err


# --- time and real sizes ----------------------------------------------------------------------------------------


def test_time_follows_from_operations_and_the_device() -> None:
    operations = {"bfloat16": 10**15, "float32": 10**13}
    times = {name: seconds(operations, gpu_named(name)) for name in GPUS}
    assert times["h100"] < times["a100"] < times["3090"]
    assert times["h100"] == pytest.approx(2 * (1e15 / 989e12 + 1e13 / 67e12))
    assert seconds(operations, gpu_named("h100"), moved=10**12) == 1e12 / (1e9 * gpu_named("h100").bus)
    with pytest.raises(DualprocError, match="unknown device"):
        gpu_named("abacus")


@pytest.mark.nightly
def test_real_sizes_are_planned_within_3_gb_and_a_minute() -> None:
    flags = [word for override in REAL_SIZE for word in ("--set", override)]
    command = [sys.executable, "-m", "dualproc", "plan", "specs/line_weight.yaml", "--variant", "thick", "--json"]
    started = time.perf_counter()
    done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=ROOT, check=False)
    taken = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    parameters = {part["kind"]: part["parameters"] for part in plan["parts"]}
    assert parameters["FluxTransformer2DModel"] == pytest.approx(11.9e9, rel=0.01)
    assert parameters["T5EncoderModel"] == pytest.approx(4.76e9, rel=0.01)
    assert parameters["AutoencoderKL"] == pytest.approx(84e6, rel=0.01)
    judge = sum(part["parameters"] for part in plan["parts"] if part["role"] == "judge")
    assert judge == pytest.approx(8.29e9, rel=0.001)
    (memory,) = plan["memory"].values()
    assert memory["weights"] == pytest.approx(40.5e9, rel=0.01)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 3e9
    assert taken < 60
