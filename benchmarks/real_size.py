"""A training step with models of real sizes: measured, and predicted by `dp plan`.

    python benchmarks/real_size.py                        on a GPU: FLUX.1-schnell and Qwen2.5-VL-7B
    python benchmarks/real_size.py --scale small          the same classes with few layers, for a CPU
    python benchmarks/real_size.py --planned --card h100  only the predictions, on any machine
    python benchmarks/real_size.py --models sd            Stable Diffusion 1.5 and SmolVLM-256M, 256 x 256, for a CPU

The weights are random and created on the device, from the configurations in `configs/`. Time and memory do not depend
on their values, and nothing is downloaded. The plugins, the engine and its step are the real ones.

The script prints one Markdown row for each precision and number of questions: the median time of a step, its peak
memory, and the predictions. On a GPU, the memory is what torch has allocated. On a CPU, it is that of all tensors,
counted in a separate step.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from step import QUESTIONS

from dualproc import Engine, TaskSpec, load_spec
from dualproc.errors import DualprocError
from dualproc.kit.patching import replaced
from dualproc.plan.dry_run import Observed, dry_run
from dualproc.plan.hardware import gpu_named, seconds
from dualproc.plan.ledger import Ledger
from dualproc.plan.meta_models import built_from_configs
from dualproc.plan.meta_tensors import MetaMode

CONFIGS = Path(__file__).parent / "configs"
ROOT = CONFIGS.parents[1]
GENERATOR, JUDGE = "flux-schnell", "qwen2.5-vl-7b"
SD = (
    "generator.type=sd1.5", "generator.model={configs}/sd1.5", "generator.height=256", "generator.width=256",
    "generator.steps=1", "judge.type=transformers", "judge.model={configs}/smolvlm-256m",
)  # fmt: skip
"""Overrides for `--models sd`: one sampling step, so that no step runs without gradient."""
SMALL: dict[str, dict[str, Any]] = {
    "flux-schnell/transformer/config.json": {
        "num_layers": 2, "num_single_layers": 4, "num_attention_heads": 4, "joint_attention_dim": 256,
        "pooled_projection_dim": 128,
    },
    "flux-schnell/text_encoder/config.json": {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "projection_dim": 128,
    },
    "flux-schnell/text_encoder_2/config.json": {"d_model": 256, "d_ff": 512, "num_layers": 2, "num_heads": 4},
    "flux-schnell/vae/config.json": {"block_out_channels": [32, 64, 64, 64]},
    "qwen2.5-vl-7b/config.json": {
        "text_config": {
            "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 8192, "layer_types": ["full_attention"] * 4,
        },
        "vision_config": {
            "depth": 4, "hidden_size": 256, "intermediate_size": 512, "num_heads": 4, "out_hidden_size": 512,
            "fullatt_block_indexes": [3],
        },
    },
}  # fmt: skip
"""Changes to the configurations for `--scale small`."""
SMALL_IMAGES = 128
"""Height and width in pixels for `--scale small`."""


@contextmanager
def configurations(scale: str) -> Iterator[Path]:
    """The folder with the configurations of a scale, `full` or `small`."""
    if scale == "full":
        yield CONFIGS
        return
    with tempfile.TemporaryDirectory() as folder:
        for model in (GENERATOR, JUDGE):
            shutil.copytree(CONFIGS / model, Path(folder, model))
        for name, changes in SMALL.items():
            file = Path(folder, name)
            data = json.loads(file.read_text())
            for key, value in changes.items():
                data[key] = {**data[key], **value} if isinstance(value, dict) else value
            file.write_text(json.dumps(data))
        yield Path(folder)


def spec_of(
    configs: Path,
    precision: str,
    questions: int = 1,
    *,
    device: str = "cuda",
    scale: str = "full",
    batch: int = 1,
    checkpointing: bool = False,
    more: Sequence[str] = (),
) -> TaskSpec:
    """The spec with these models in `precision`, the first `questions` of QUESTIONS, and `more` overrides."""
    # On a CPU, diffusers refuses bitsandbytes, although the layers that `filled` makes compute there too.
    quantize = precision if precision.endswith("bit") and device != "cpu" else "null"
    dtype = "float32" if precision == "float32" else "bfloat16"
    settings = {
        "generator.type": GENERATOR, "generator.model": configs / GENERATOR, "judge.type": "qwen2.5-vl",
        "judge.model": configs / JUDGE, "referee": "null", "train.stop": "null", "train.batch": batch,
        **{
            f"{role}.{key}": value for role in ("generator", "judge")
            for key, value in (
                ("dtype", dtype), ("quantize", quantize), ("device", device),
                ("checkpointing", str(checkpointing).lower()),
            )
        },
        **({f"generator.{side}": SMALL_IMAGES for side in ("height", "width")} if scale == "small" else {}),
    }  # fmt: skip
    overrides = [*(f"{key}={value}" for key, value in settings.items()), *more]
    data = load_spec(ROOT / "specs" / "line_weight.yaml", variant="thick", overrides=overrides).model_dump()
    return TaskSpec.model_validate(
        data | {"question": [{"template": text, "answer": "Yes"} for text in QUESTIONS[:questions]]}
    )


def build(spec: TaskSpec, precision: str, device: str, *, within: AbstractContextManager[Any] | None = None) -> Engine:
    """The engine of a spec, with random weights created on `device`; built `within` a context, if one is given."""
    made = built_from_configs(lambda: without_linear_weights(device), filled(precision, device))
    with made, within or nullcontext():
        return Engine(spec)


@contextmanager
def without_linear_weights(device: str) -> Iterator[None]:
    """Within, models are created on `device`, except the weights of linear layers, which `filled` creates one by one.

    So a model never needs more memory than in its final precision. The libraries' own initialisation of these weights,
    which is slow on a CPU, is left out.
    """
    own = torch.nn.Linear.__init__

    def without(self: torch.nn.Linear, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs | {"device": "meta"})

    with torch.device(device), replaced(torch.nn.Linear, "__init__", without):
        yield


def filled(precision: str, device: str) -> Callable[[str, torch.nn.Module], None]:
    """A callback for each model that is built: gives its linear layers weights, quantised if `precision` says so.

    As on loading, output heads and autoencoders are not quantised.
    """

    def fill(_name: str, model: torch.nn.Module) -> None:
        quantized = precision.endswith("bit") and not type(model).__name__.startswith("Autoencoder")
        # Not the linear layers themselves: a list of them would keep their weights until all are quantised.
        for owner in [part for part in model.modules() if not isinstance(part, torch.nn.Linear)]:
            for name, layer in list(owner.named_children()):
                if not isinstance(layer, torch.nn.Linear):
                    continue
                for key, weight in layer._parameters.items():
                    if weight is not None and weight.is_meta:
                        layer._parameters[key] = torch.nn.Parameter(_random(weight, device), requires_grad=False)
                if quantized and type(layer) is torch.nn.Linear and "head" not in name:
                    setattr(owner, name, packed(layer, precision))
        if quantized:  # PEFT reads it
            setattr(model, f"is_loaded_in_{precision}", True)

    return fill


def _random(like: torch.Tensor, device: str) -> torch.Tensor:
    """Random weights like `like`, with a standard deviation of .02; zeros for a bias."""
    made = torch.empty(like.shape, dtype=like.dtype, device=device)
    if made.ndim < 2:
        return made.zero_()
    if device != "cpu":
        return made.normal_(std=0.02)
    # A CPU draws random numbers slowly, so the same million is repeated.
    flat, block = made.view(-1), torch.randn(min(made.numel(), 2**20)).mul_(0.02).to(made.dtype)
    for part in flat.split(len(block)):
        part.copy_(block[: len(part)])
    return made


def packed(layer: torch.nn.Linear, precision: str) -> torch.nn.Module:
    """A linear layer in 8 or 4 bits, as bitsandbytes quantises it on loading."""
    import bitsandbytes as bnb

    sizes, weight = (layer.in_features, layer.out_features, layer.bias is not None), layer.weight.data
    if precision == "8bit":
        new = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
        codes, scales, _ = bnb.functional.int8_vectorwise_quant(weight.half())
        new.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    else:
        new = bnb.nn.Linear4bit(*sizes, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
        settings = {"quant_type": "nf4", "compress_statistics": False, "requires_grad": False}
        new.weight = bnb.nn.Params4bit(weight, **settings, module=new).to(weight.device)
        new.support_avx512bf16_for_cpu = False  # otherwise a CPU repacks them in a layout without a backward pass
    new.bias = layer.bias
    return new


def measured(spec: TaskSpec, precision: str, args: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of a training step, and its peak memory in bytes."""
    cuda = args.device.startswith("cuda")
    ledger = Ledger()
    counting = MetaMode(ledger)
    engine = build(spec, precision, args.device, within=None if cuda else counting)
    engine.step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = [timed_step(engine, cuda) for _ in range(args.steps)]
    if cuda:
        return statistics.median(times), torch.cuda.max_memory_allocated()
    ledger.restart()
    with counting:
        engine.step()
    return statistics.median(times), sum(account.peak for account in ledger.accounts.values())


def timed_step(engine: Engine, cuda: bool) -> float:
    """Seconds of one training step."""
    started = time.perf_counter()
    engine.step()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def row(configs: Path, args: argparse.Namespace, precision: str, questions: int, observed: dict[str, Observed]) -> str:
    """One row of the table; `observed` is the `known` of `dry_run`."""
    more = {"device": args.device, "scale": args.scale, "batch": args.batch, "checkpointing": args.checkpointing}
    if args.models == "sd":
        more["more"] = [each.format(configs=configs) for each in SD]
    spec = spec_of(configs, precision, questions, **more)
    plan = dry_run(spec, gpu=args.device.startswith("cuda"), known=observed)
    (memory,) = plan.memory.values()
    estimate = seconds(plan.operations, gpu_named(args.card) if args.card else None, moved=plan.moved)
    measurement = ["not measured", ""]
    try:
        if not args.planned:
            time_of_step, peak = measured(spec, precision, args)
            measurement = [f"{time_of_step:.2f} s", f"{peak / 1e9:.2f} GB"]
    except (DualprocError, ImportError, torch.OutOfMemoryError) as error:
        measurement = [str(error).splitlines()[0].replace("|", "/"), ""]
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    gigabytes = [f"{count / 1e9:.2f} GB" for count in (memory.training, memory.loading)]
    cells = [precision, str(questions), measurement[0], f"{estimate:.2f} s", measurement[1], *gigabytes]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=["full", "small"], default="full")
    parser.add_argument("--models", choices=["flux", "sd"], default="flux")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--card", help="name of the GPU, as in `dp plan --device`; its speed is measured if not given")
    parser.add_argument("--precision", nargs="+", default=["bfloat16", "8bit", "4bit"] if cuda else ["float32"])
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--planned", action="store_true", help="only plan, for the GPU named by --card")
    args = parser.parse_args()
    if args.planned:
        args.device, args.precision = "cuda", ["bfloat16", "8bit", "4bit"]
    print("| precision | questions | time | planned time | memory | planned memory | planned memory while loading |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    observed: dict[str, Observed] = {}
    with configurations(args.scale) as configs:
        for precision in args.precision:
            for questions in args.questions:
                print(row(configs, args, precision, questions, observed), flush=True)


if __name__ == "__main__":
    main()
