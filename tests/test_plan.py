"""The plan: a dry run of the engine says what a real step takes, and nothing is loaded for it."""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from installed import install
from small_judges import save as save_judge
from small_pipelines import FAMILIES as PIPELINES
from small_pipelines import saved
from torch.utils.flop_counter import FlopCounterMode

from dualproc import Engine, TaskSpec, load_spec
from dualproc.errors import DualprocError
from dualproc.plan import switches
from dualproc.plan.dry_run import QUANTIZED, Memory, Plan, dry_run
from dualproc.plan.hardware import GPUS, gpu_named, seconds
from dualproc.plan.meta_tensors import without_weights
from dualproc.plan.switches import changed_spec, search, switches_of

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "benchmarks" / "configs"
REAL_SIZE = [
    "generator.type=flux-schnell", f"generator.model={CONFIGS / 'flux-schnell'}", "judge.type=qwen2.5-vl",
    f"judge.model={CONFIGS / 'qwen2.5-vl-7b'}", "train.batch=1", "referee=null", "train.stop=null",
]  # fmt: skip


def spec_of(*overrides: str) -> TaskSpec:
    return load_spec(ROOT / "specs" / "line_weight.yaml", variant="thick", overrides=overrides)


def planned(*overrides: str) -> Plan:
    return dry_run(spec_of(*overrides), gpu=False)


@pytest.fixture(scope="module")
def tiny() -> Plan:
    """The plan of the shipped models."""
    return planned()


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The real engine of the shipped models, after a step."""
    made = Engine(spec_of())
    made.step()
    return made


def real_costs(engine: Engine) -> tuple[int, int]:
    """Bytes that a step keeps for its backward pass, besides weights, and its operations."""
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
    parts = plugin.pipe.components.values() if hasattr(plugin, "pipe") else [plugin.model]
    return [part for part in parts if isinstance(part, torch.nn.Module)]


def test_parameters_and_weights_are_those_of_the_real_models(tiny: Plan, engine: Engine) -> None:
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


def test_activations_and_operations_are_those_of_a_real_step(tiny: Plan, engine: Engine) -> None:
    kept, operations = real_costs(engine)
    assert tiny.memory["cpu"].activations == pytest.approx(kept, rel=0.1)
    assert sum(tiny.operations.values()) == pytest.approx(operations, rel=0.1)
    assert tiny.memory["cpu"].temporaries > 0


@pytest.mark.parametrize("family", ["idefics2", "qwen2.5-vl", "mllama"])
def test_other_judges_are_planned_as_they_are(family: str, tmp_path: Path) -> None:
    folder = save_judge(family, tmp_path / "judge")
    overrides = ["judge.type=transformers", f"judge.model={folder}", "referee=null", "train.stop=null"]
    plan = planned(*overrides)
    kept, operations = real_costs(Engine(spec_of(*overrides)))
    assert plan.memory["cpu"].activations == pytest.approx(kept, rel=0.1)
    assert sum(plan.operations.values()) == pytest.approx(operations, rel=0.1)


@pytest.mark.parametrize("family", ["sd", "sana", "z-image"])
def test_other_generators_are_planned_as_they_are(family: str) -> None:
    settings = {"height": 32, "width": 32, "steps": 1, **PIPELINES[family].params}
    generator = {"type": "diffusers", "model": saved(family).name, **settings}
    spec = changed_spec(spec_of("referee=null", "train.stop=null"), {"generator": generator})
    plan = dry_run(spec, gpu=False)
    kept, operations = real_costs(Engine(spec))
    assert plan.memory["cpu"].activations == pytest.approx(kept, rel=0.1)
    assert sum(plan.operations.values()) == pytest.approx(operations, rel=0.1)


def test_switches_make_it_smaller(tiny: Plan) -> None:
    before = tiny.memory["cpu"]
    checkpointed = planned("generator.checkpointing=true", "judge.checkpointing=true")
    assert checkpointed.memory["cpu"].activations < 0.7 * before.activations
    assert sum(checkpointed.operations.values()) > sum(tiny.operations.values())
    half = planned("train.batch=2").memory["cpu"]
    assert half.activations == pytest.approx(before.activations / 2, rel=0.1)
    assert half.weights == pytest.approx(before.weights, rel=0.01)


def test_quantised_weights_are_counted_without_bitsandbytes(tiny: Plan) -> None:
    linear = sum(part.linear for part in tiny.parts if part.role == "judge")
    assert linear > 0
    for bits in ("8bit", "4bit"):
        saved = tiny.memory["cpu"].weights - planned(f"judge.quantize={bits}").memory["cpu"].weights
        assert saved == pytest.approx(linear * (1 - QUANTIZED[bits] / 4), rel=0.01)
    vae = next(part for part in planned("generator.quantize=4bit").parts if part.name == "vae")
    assert vae.precision == "float32"


def test_loading_has_a_moment_with_text_encoders_and_one_with_judges(tiny: Plan) -> None:
    encoders = sum(part.bytes for part in tiny.parts if not part.stays)
    assert encoders > 0
    memory = tiny.memory["cpu"]
    lora = memory.lora // 4
    assert memory.weights + lora <= memory.loading < memory.weights + lora + encoders  # never both
    for few in ("judge.quantize=4bit", "generator.quantize=4bit"):
        memory = planned(few, "referee.quantize=4bit").memory["cpu"]
        assert memory.loading >= memory.weights
    (generator,) = (planned("judge.device=cuda:1", "referee.device=cuda:1").memory[device] for device in ("cpu",))
    assert generator.loading >= generator.weights + encoders


def test_devices_have_accounts_of_their_own(tiny: Plan) -> None:
    plan = planned("generator.device=cuda:0", "judge.device=cuda:1", "referee.device=cuda:1")
    apart = plan.memory
    assert set(apart) == {"cuda:0", "cuda:1"}
    for device, memory in apart.items():
        staying = sum(part.bytes for part in plan.parts if part.device == device and part.stays)
        assert memory.weights == pytest.approx(staying, abs=plan.lora_parameters)  # buffers; a LoRA is 4 times as much
    assert sum(memory.weights for memory in apart.values()) == tiny.memory["cpu"].weights
    activations = [memory.activations for memory in apart.values()]
    assert min(activations) > 0
    assert sum(activations) == tiny.memory["cpu"].activations
    assert apart["cuda:1"].lora == 0


def test_offloaded_weights_are_on_the_device_while_they_are_used(tiny: Plan) -> None:
    plan = dry_run(spec_of("generator.offload=true", "generator.checkpointing=true"), gpu=True)
    backbone = next(part for part in plan.parts if part.kind == "FluxTransformer2DModel")
    assert backbone.device == "main memory"
    assert plan.memory["main memory"].weights >= backbone.bytes
    assert plan.memory["cuda:0"].weights == pytest.approx(
        sum(part.bytes for part in plan.parts if part.device == "cuda:0"), rel=0.01
    )
    kept = dry_run(spec_of("generator.checkpointing=true"), gpu=True)
    assert plan.peak < kept.peak - 0.7 * backbone.bytes
    assert set(kept.memory) == {"cuda:0"}
    useless = dry_run(spec_of("generator.offload=true"), gpu=True)  # the backward pass keeps all copies
    assert useless.peak == pytest.approx(tiny.peak, rel=0.1)


def test_torch_is_left_as_it_was(engine: Engine) -> None:
    before = (torch.tensor, torch.Tensor.numpy, torch.nn.functional.scaled_dot_product_attention)
    with pytest.raises(ZeroDivisionError), without_weights():
        _ = 1 / 0
    assert (torch.tensor, torch.Tensor.numpy, torch.nn.functional.scaled_dot_product_attention) == before
    planned()
    first, second = (Engine(spec_of()).step() for _ in range(2))
    assert first.loss == second.loss
    assert not any(weight.is_meta for weight in engine.weights)


def test_a_hub_model_is_planned_without_its_weights(tmp_path: Path) -> None:
    """In the hub's cache there are configurations and tokenizers alone."""
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "abc"
    shutil.copytree(ROOT / "dualproc/weights/generator", snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    code = (
        "from dualproc import load_spec; from dualproc.plan.dry_run import dry_run;"
        "spec = load_spec('specs/line_weight.yaml', variant='thick', overrides=['generator.model=someone/tiny']);"
        "print(dry_run(spec, gpu=False).memory['cpu'].weights)"
    )
    environment = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 4e7


def test_a_model_that_cannot_be_reached_is_an_error() -> None:
    with pytest.raises(DualprocError, match="cannot load the judge"):
        planned("judge.type=transformers", "judge.model=no/such/folder")


STRANGE = """
from types import SimpleNamespace
import torch
from pydantic import BaseModel
from dualproc.types import Answers

class Light:
    '''Finds bright images right.'''
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
    '''Has weights that no from_pretrained has made.'''
    api_version = 1
    class Params(BaseModel, extra="forbid"): pass
    lora_targets = ["0"]
    def __init__(self, params):
        self.adapter_module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    def prepare(self, *args, **kwargs): pass
    sample = denoise = save_lora = recipe = pipeline = prepare
"""


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a judge without a model, and a generator that makes its own."""
    points = "[dualproc.judges]\nlight = strange:Light\n[dualproc.generators]\nown = strange:Own\n"
    install(tmp_path, "strange", STRANGE, points, monkeypatch)


@pytest.mark.usefixtures("strangers")
def test_what_cannot_be_planned_is_said() -> None:
    plan = planned("judge.type=light", "referee=null", "train.stop=null")
    assert [note for note in plan.notes if note.startswith("judge: loads its model in a way of its own")]
    assert plan.memory["cpu"].activations > 0
    with pytest.raises(DualprocError, match="own cannot be planned"):
        planned("generator.type=own", "referee=null", "train.stop=null")


def test_the_cheapest_switches_are_found() -> None:
    spec, known = spec_of("referee=null", "train.stop=null"), {}
    plan = dry_run(spec, gpu=False, known=known)
    groups = list(switches_of(spec, plan, gpu=False))
    keys = {key for group in groups for switch in group for key in switch.values}
    assert {"generator.checkpointing", "judge.checkpointing", "judge.quantize", "train.batch"} <= keys
    told: list[str] = []
    found = search(spec, plan, 0.4 * plan.peak, gpu=False, known=known, progress=told.append)
    assert found.together is not None
    assert found.together.plan is not None
    assert found.together.plan.peak <= 0.4 * plan.peak < min(t.plan.peak for t in found.alone[:2] if t.plan)
    assert len(found.together.switches) > 1
    assert "checkpointing=true" in found.together.flags
    assert len(told) > len(found.alone) == sum(map(len, groups))
    assert search(spec, plan, 1000, gpu=False, known=known).together is None


def invent(monkeypatch: pytest.MonkeyPatch, memory: Callable[[set[str]], dict[str, Memory]]) -> None:
    """Plans are what `memory` says of the switches that are on, by key, instead of dry runs."""

    def told(spec: TaskSpec, **_: Any) -> Plan:
        models = {"generator": spec.generator, "judge": spec.judge}
        on = {f"{name}.{key}" for name, ref in models.items() for key, value in ref.params.items() if value}
        return Plan((), 0, memory(on), {}, "", ())

    monkeypatch.setattr(switches, "dry_run", told)


def gigabytes(weights: float = 0, activations: float = 0, loading: float = 0) -> Memory:
    return Memory(round(weights * 1e9), 0, round(activations * 1e9), 0, round(loading * 1e9))


def on_two_devices(on: set[str]) -> dict[str, Memory]:
    """Each model's checkpointing helps its own device."""
    return {
        "cuda:0": gigabytes(5, 15 if "generator.checkpointing" in on else 30),
        "cuda:1": gigabytes(5, 15 if "judge.checkpointing" in on else 26),
    }


def in_loading_and_training(on: set[str]) -> dict[str, Memory]:
    """One switch helps while loading, one in a step."""
    loading, activations = 30 - 15 * ("generator.quantize" in on), 31 - 15 * ("judge.checkpointing" in on)
    return {"cuda:0": gigabytes(0, activations, loading)}


@pytest.mark.parametrize("memory", [on_two_devices, in_loading_and_training])
def test_a_switch_that_helps_at_one_of_two_high_points_is_used(
    memory: Callable[[set[str]], dict[str, Memory]], monkeypatch: pytest.MonkeyPatch
) -> None:
    invent(monkeypatch, memory)
    spec = spec_of("referee=null", "train.stop=null")
    found = search(spec, switches.dry_run(spec, gpu=True), 24e9, gpu=True)
    assert found.together is not None
    assert found.together.plan is not None
    assert found.together.plan.peak == 20e9 if memory is on_two_devices else 16e9
    assert len(found.together.switches) == 2


def test_nothing_is_both_offloaded_and_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugin takes both, though both together would seem to fit."""
    helps = {"generator.offload", "generator.quantize"}
    invent(monkeypatch, lambda on: {"cuda:0": gigabytes(40 - 15 * len(helps & on))})
    spec = spec_of("referee=null", "train.stop=null")
    told: list[str] = []
    found = search(spec, switches.dry_run(spec, gpu=True), 12e9, gpu=True, progress=told.append)
    assert found.together is None
    assert all(sum(key in message for message in told) for key in helps)
    assert not any(all(key in message for key in helps) for message in told)
    for one, other in itertools.permutations(("offload=true", "quantize=8bit")):
        keys = {
            key
            for group in switches_of(spec_of(f"generator.{one}"), found.alone[0].plan or planned(), gpu=True)
            for switch in group
            for key in switch.values
        }
        assert "generator." + other.partition("=")[0] not in keys
        assert "judge." + other.partition("=")[0] in keys


def test_devices_by_any_name_are_accounted_for_once() -> None:
    assert set(planned("generator.device=mps").memory) == {"cpu"}
    assert set(planned("generator.device=cuda:0", "judge.device=cuda", "referee.device=cuda").memory) == {"cuda:0"}


def test_time_follows_from_operations_and_the_device() -> None:
    operations = {"bfloat16": 10**15, "float32": 10**13}
    times = {name: seconds(operations, gpu_named(name)) for name in GPUS}
    assert times["h100"] < times["a100"] < times["3090"]
    assert times["h100"] == pytest.approx(2 * (1e15 / 989e12 + 1e13 / 67e12))
    with pytest.raises(DualprocError, match="unknown device"):
        gpu_named("abacus")


@pytest.mark.nightly
def test_real_sizes_are_planned_in_little_memory_and_time() -> None:
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
