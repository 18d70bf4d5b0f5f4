"""The presets: specs can use all of them, and each works with a model of its family.

test_generator_families.py and test_judge_families.py run the presets with small models: the LoRA targets match layers,
the arguments of the call and of the image processor are accepted.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_judges
import small_pipelines
import torch
import transformers as tf
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from spec_texts import PLAIN, write
from typer.testing import CliRunner

from dualproc import registry
from dualproc.cli import app
from dualproc.engine import lora
from dualproc.errors import PluginError
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.resolve import load_spec, read_checked
from dualproc.spec import Lora, to_yaml
from dualproc.spec.models import Train

SPEC = Path(__file__).parents[1] / "specs" / "line_weight.yaml"


def presets(kind: str) -> list[str]:
    """The names of dualproc's presets of a kind."""
    ours = [entry.name for entry in registry.entries(kind) if entry.distribution == "dualproc"]
    return [name for name in ours if registry.load(kind, f"dualproc/{name}").preset]


GENERATORS, JUDGES = presets("generators"), presets("judges")
SHIPPED = ("tiny", "tiny-referee")
LARGE = [name for name in GENERATORS if name not in SHIPPED]
ALL = [*(("generators", name) for name in GENERATORS), *(("judges", name) for name in JUDGES)]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_the_parameters_of_a_preset_are_valid(kind: str, name: str) -> None:
    params = registry.load(kind, name).params({})
    if name in SHIPPED:
        assert Path(params.model).is_dir()
    else:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", params.model)
        assert params.dtype == "bfloat16"
    given = {"dtype": "float16", "model": "mine"}
    changed = registry.load(kind, name).params(given)
    assert changed == params.model_copy(update=given)


def test_specs_can_use_every_preset_without_importing_torch() -> None:
    code = (
        "import sys; from dualproc.cli import app\n"
        f"for kind, name in {ALL!r}:\n"
        f"    arguments = [{str(SPEC)!r}, '--set', f'{{kind[:-1]}}.type={{name}}']\n"
        "    app(['spec', 'check', *arguments], standalone_mode=False)\n"
        "    app(['spec', 'show', *arguments, '--variant', 'thick'], standalone_mode=False)\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert [name for kind, name in ALL if f"type: {name}" not in shown] == []


@pytest.mark.parametrize("name", LARGE)
def test_the_summary_of_a_generator_agrees_with_its_parameters(name: str) -> None:
    loaded = registry.load("generators", name)
    params = loaded.params({})
    assert f"{params.height} x {params.width} pixels" in loaded.summary
    assert re.search(r"in one step" if params.steps == 1 else rf"in {params.steps} (\w+ )?steps", loaded.summary)


def test_every_preset_has_a_small_model_of_its_family_in_the_tests() -> None:
    assert {family.preset for family in small_pipelines.FAMILIES.values()} == set(LARGE)
    assert set(small_judges.FAMILIES) == {name for name in JUDGES if name not in SHIPPED}


# packages that a preset needs


def test_all_packages_that_a_preset_needs_come_with_dualproc() -> None:
    declared = (SPEC.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    (core,) = re.findall(r"^dependencies = \[(.*?)^\]", declared, re.DOTALL | re.MULTILINE)
    assert {"sentencepiece", "protobuf", "num2words"} <= set(re.findall(r'^  "([\w-]+)', core, re.MULTILINE))


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="the package is installed")
def test_a_missing_package_of_a_generator_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}', encoding="utf-8")
    loaded = registry.load("generators", "kolors")
    with pytest.raises(
        PluginError, match=r"KolorsPipeline needs the package sentencepiece[\s\S]*pip install sentencepiece"
    ):
        loaded.cls(loaded.params({"model": str(tmp_path)}))


@pytest.mark.skipif(importlib.util.find_spec("num2words") is not None, reason="the package is installed")
def test_a_missing_package_of_a_judge_is_named(tmp_path: Path) -> None:
    """SmolVLM2's own processor cannot be built without the package, so that of Idefics3 is turned into one."""
    folder = small_judges.save("idefics3", tmp_path)
    tf.SmolVLMVideoProcessor().save_pretrained(folder)
    config = folder / "processor_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "processor_class": "SmolVLMProcessor"}))
    loaded = registry.load("judges", "smolvlm2")
    with pytest.raises(PluginError, match=r"cannot load the judge .*`pip install num2words`"):
        loaded.cls(loaded.params({"model": str(folder), "device": "cpu"}))


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="the package is installed")
def test_a_package_that_a_tokenizer_needs_is_named(tmp_path: Path) -> None:
    """Without it, transformers reads the file of sentencepiece as one of tiktoken, and asks for that package."""
    folder = shutil.copytree(small_pipelines.saved("pixart-sigma").name, tmp_path / "model")
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    (folder / "tokenizer" / "spiece.model").write_bytes(b"\n\x0e\n\x05<pad>\x15\0\0\0\0\x18\x03")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "tokenizer": ["transformers", "T5Tokenizer"]}))
    loaded = registry.load("generators", "pixart-sigma")
    with pytest.raises(PluginError, match=r"its tokenizer needs the packages? sentencepiece[\s\S]*pip install senten"):
        loaded.cls(loaded.params({"model": str(folder), "device": "cpu"}))


# gated models


GATED = {"flux-schnell", "flux-dev", "sd3.5", "gemma3", "paligemma2", "mllama"}


def test_gated_presets_are_marked() -> None:
    assert {name for kind, name in ALL if registry.load(kind, name).gated} == GATED
    assert registry.gated("generators") | registry.gated("judges") == GATED
    listed = CliRunner().invoke(app, ["plugins"]).stdout.splitlines()
    assert {line.split()[1] for line in listed if line.endswith("(gated)")} == GATED
    shown = CliRunner().invoke(app, ["plugins", "show", "judges/gemma3"]).stdout
    assert "accept the terms at https://huggingface.co/google/gemma-3-4b-it, then log in: hf auth login" in shown
    assert "Gated" not in CliRunner().invoke(app, ["plugins", "show", "judges/qwen2.5-vl"]).stdout


# published training settings


def task(generator: str, *, judge: str = "qwen2.5-vl", train: str = "") -> str:
    return f"{PLAIN}generator: {{type: {generator}}}\njudge: {{type: {judge}}}\n{train}\n"


def test_published_settings_are_used_where_the_spec_sets_none(tmp_path: Path) -> None:
    file = write(tmp_path, task("flux-dev", train="train: {batch: 2, lora: {rank: 32}}"))
    loaded = read_checked(file, overrides=["train.steps=50"])
    train = loaded.require().train
    assert (train.lr, train.batch, train.steps, train.lora.rank, train.lora.strength) == (5e-5, 2, 50, 32, 5.0)
    origins = loaded.origins
    assert origins["train.lr"].startswith("generators/flux-dev, from Dual-Process Image Generation")
    assert (origins["train.batch"], origins["train.steps"]) == (f"{file}:7", "--set train.steps")
    shown = CliRunner().invoke(app, ["spec", "show", str(file)]).stdout
    assert re.search(r"lr: 5\.0e-05 +# generators/flux-dev, from", shown)


def test_the_generator_may_come_from_the_command_line_and_from_an_extended_file(tmp_path: Path) -> None:
    base = write(tmp_path, task("sana"), "base.yaml")
    file = write(tmp_path, "extends: base.yaml\ndescription: the same\n")
    assert [read_checked(one).require().train.lr for one in (base, file)] == [5e-6, 5e-6]
    assert load_spec(file, overrides=["generator.type=flux-schnell"]).train.lr == 5e-5
    assert load_spec(file, overrides=["generator.type=sdxl"]).train == Train()


def test_every_variant_gets_the_published_settings(tmp_path: Path) -> None:
    variants = "variants: {a: {width: 1}, b: {width: 2}}"
    loaded = read_checked(write(tmp_path, task("sana", train=variants)))
    assert [one.require().train.lr for one in (*loaded.each(), loaded.for_variant("b"))] == [5e-6] * 3


def test_a_resolved_spec_keeps_its_settings(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, task("sana", train="train: {lr: 1e-3}")))
    assert load_spec(write(tmp_path, to_yaml(spec), "resolved.yaml")) == spec


def test_only_the_papers_generators_have_published_settings_and_all_are_valid() -> None:
    found = {name: registry.load("generators", name) for name in GENERATORS}
    assert {name for name, one in found.items() if one.train} == {"flux-schnell", "flux-dev", "sana"}
    for one in found.values():
        Train.model_validate(one.train)
        assert bool(one.train) == bool(one.train_source)


def test_commands_show_where_the_settings_come_from_and_which_ones_differ(tmp_path: Path) -> None:
    def check(text: str) -> str:
        done = CliRunner().invoke(app, ["spec", "check", str(write(tmp_path, text))])
        assert done.exit_code == 0, done.output
        return done.output

    assert re.search(r"published for sana \(.*2506\.01955\) are used", check(task("sana")))
    other = check(task("sana", train="train: {lr: 1e-3, batch: 1}"))
    assert other.rstrip().endswith("to use them: --set train.lr=5e-06")
    assert "Note: the spec differs" in check(task("sana", judge="tiny", train="train: {lr: 1e-3}"))
    assert "published" not in check(task("sdxl"))
    shown = CliRunner().invoke(app, ["plugins", "show", "generators/sana"]).stdout
    assert "Where a spec sets no value of `train`: `steps: 100`, `batch: 1`, `lr: 5e-06`" in shown


# LoRA targets


@pytest.fixture
def flux() -> FluxTransformer2DModel:
    """A small Flux with two double-stream and two single-stream blocks."""
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip


def layers_with_lora(module: torch.nn.Module) -> set[str]:
    return {name for name, part in module.named_modules() if isinstance(part, LoraLayer)}


@pytest.mark.parametrize("name", ["flux-schnell", "flux-dev"])
def test_the_lora_of_flux_is_on_the_double_stream_blocks_only(name: str, flux: FluxTransformer2DModel) -> None:
    """On all their linear layers except those of the norms, as in the paper."""
    linear = {name for name, part in flux.named_modules() if isinstance(part, torch.nn.Linear)}
    double = {name for name in linear if name.startswith("transformer_blocks.") and ".norm" not in name}
    assert len(double) == 2 * 12
    lora.attach(flux, Lora(rank=2), registry.load("generators", name).params({}).lora_targets, seed=0)
    assert layers_with_lora(flux) == double


def test_a_target_matches_whole_parts_at_the_end_of_a_name(flux: FluxTransformer2DModel) -> None:
    lora.attach(flux, Lora(rank=2), ["1.attn.to_q", "net.*.proj", "embedder"], seed=0)
    blocks = {"transformer_blocks.1.attn.to_q", "single_transformer_blocks.1.attn.to_q"}
    forward = {f"transformer_blocks.{n}.{part}.net.0.proj" for n in (0, 1) for part in ("ff", "ff_context")}
    assert layers_with_lora(flux) == blocks | forward


def test_the_lora_of_a_bfloat16_model_is_trained_in_float32() -> None:
    tiny = registry.load("generators", "tiny")
    generator: DiffusersGenerator = tiny.cls(tiny.params({"dtype": "bfloat16"}))
    weights = lora.attach(generator.adapter_module, Lora(rank=2), generator.lora_targets, seed=0)
    sample = generator.sample(["a cartoon of a cat"], [1], grad=True)
    assert sample.images.dtype == sample.latents.dtype == torch.float32
    sample.images.mean().backward()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
    assert generator.denoise(sample.latents, 0.3, ["a cartoon of a cat"], [1]).isfinite().all()
