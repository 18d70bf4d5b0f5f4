"""LoRA files: what they say about themselves, several at once, as a start, and from a fit that was made longer."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from found_images import dp
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file
from small_pipelines import small
from stub_plugins import stubs

from dualproc import Engine, TaskSpec, __version__, resolve
from dualproc.engine import lora
from dualproc.engine.lora_files import LoraSum, read, start_from
from dualproc.engine.reload import load_generator, open_run
from dualproc.errors import RunError, SpecError
from dualproc.report import render_card
from dualproc.run import RunFolder
from dualproc.run.folder import RESOLVED, WEIGHTS
from dualproc.run.lora_file import SUM, with_facts
from dualproc.spec import Lora, PluginRef, spec_from_dict
from dualproc.types import Recipe

SHIPPED = Path(resolve.__file__).parent / "weights" / "generator"
DATA: dict[str, Any] = {
    "name": "test",
    "prompts": {"template": "a cartoon of {subject}", "train": ["a cat", "a dog"], "eval": ["an owl"]},
    "question": {"template": "Is the image bright?"},
    "train": {"steps": 2, "batch": 2, "lr": 1e-2, "checkpoint_every": 2, "lora": {"rank": 4}},
    "evaluation": {"seeds": 1},
}


def make_spec(*, train: dict[str, Any] | None = None, **changes: Any) -> TaskSpec:
    return spec_from_dict({**DATA, **changes, "train": {**DATA["train"], **(train or {})}})


def with_stub_judges(kind: str, ref: PluginRef) -> Any:
    return resolve.build(kind, ref) if kind == "generators" else stubs()(kind, ref)


def facts(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


# --- permissions and header -----------------------------------------------------------------------------------------


@pytest.fixture(params=[0o022, 0o027, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_lora_has_the_permissions_of_the_run_s_other_files(umask: int, tmp_path: Path) -> None:
    run = Engine(make_spec(), build=stubs()).fit(tmp_path / "run").run
    modes = {path.name: path.stat().st_mode & 0o777 for path in run.rglob("*") if path.is_file()}
    del modes[".lock"]
    assert WEIGHTS in modes
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_the_header_says_what_the_lora_is(tmp_path: Path) -> None:
    changes = {"variants": {"thin": {"width": 1}}, "variant": "thin", "description": "Dünne Linien."}
    run = Engine(make_spec(**changes), build=stubs()).fit(tmp_path / "run").run
    found = facts(run / WEIGHTS)
    assert len(found.pop(SUM)) == 64
    digest = hashlib.sha256((run / RESOLVED).read_bytes()).hexdigest()
    prompts = "a cartoon of a cat; a cartoon of a dog"
    assert found == {
        "dualproc.version": __version__, "dualproc.base_model": "stub", "dualproc.spec": "test",
        "dualproc.variant": "thin", "dualproc.rank": "4", "dualproc.prompts": prompts, "dualproc.spec_sha256": digest,
        "ss_sd_model_name": "stub", "ss_output_name": "test/thin", "ss_network_dim": "4", "ss_network_alpha": "4",
        "modelspec.title": "test/thin", "modelspec.description": "Dünne Linien.", "modelspec.trigger_phrase": prompts,
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(found)


def test_facts_are_added_to_a_header_and_change_no_tensor() -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7, dtype=torch.int64)}
    for length in range(9):  # any length of the header
        content = with_facts(save(tensors, {"format": "pt"}), {"näme": "x" * length})
        assert int.from_bytes(content[:8], "little") % 8 == 0
        loaded = load(content)
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        assert len(metadata.pop(SUM)) == 64
        assert metadata == {"format": "pt", "näme": "x" * length}


def test_a_damaged_file_of_a_plugin_is_reported_and_the_old_one_stays(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", spec_text="", resolved_text="name: a\n")
    run.write_lora(lambda folder: save_file({"a": torch.zeros(1)}, folder / WEIGHTS), facts={"x": "y"})
    before = (run.path / WEIGHTS).read_bytes()
    with pytest.raises(RunError, match=rf"the generator plugin wrote a damaged {WEIGHTS}"):
        run.write_lora(lambda folder: (folder / WEIGHTS).write_bytes(b"\x05" + b"\0" * 7 + b"hello"), facts={"x": "y"})
    assert (run.path / WEIGHTS).read_bytes() == before


# --- models in folders, and the model card --------------------------------------------------------------------------


def front_matter(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n", 2)[1])
    return found


def test_a_model_in_a_folder_is_found_from_any_folder_and_not_published_as_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(SHIPPED, project / "models" / "tinyflux")
    monkeypatch.chdir(project)
    generator = {"type": "tiny", "model": "models/tinyflux"}
    spec = make_spec(generator=generator, train={"steps": 1, "batch": 1})
    run = Engine(spec, build=with_stub_judges).fit().run
    assert run == Path("runs/test")
    card = (run / "README.md").read_text()
    assert "base_model" not in front_matter(card)
    assert "A LoRA for `tinyflux`" in card
    assert 'from_pretrained("path/to/tinyflux"' in card
    assert facts(run / WEIGHTS)["dualproc.base_model"] == "tinyflux"
    assert str(tmp_path) not in card + (run / RESOLVED).read_text()
    assert "model: ../../models/tinyflux\n" in (run / RESOLVED).read_text()
    with torch.no_grad():
        image = load_generator(run).sample(["a cartoon of a cat"], [3]).images

    moved = project.rename(tmp_path / "moved")
    for folder in ("/", str(moved / "models"), str(moved / "runs" / "test")):
        monkeypatch.chdir(folder)
        with torch.no_grad():
            again = load_generator(moved / "runs" / "test").sample(["a cartoon of a cat"], [3]).images
        torch.testing.assert_close(again, image)
    spec = open_run(moved / "runs" / "test", overrides=["evaluation.batch=3"])[1]  # otherwise the same spec
    assert spec.evaluation.batch == 3
    shutil.rmtree(moved / "models")
    monkeypatch.chdir("/")
    with pytest.raises(Exception, match="tinyflux': no such folder"):
        load_generator(moved / "runs" / "test")


@pytest.mark.parametrize("model", ["/models/mine", "./mine", "../models/mine", "~/mine", r"C:\models\mine", "mine/"])
def test_a_path_is_never_a_hub_id(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    run = RunFolder.create(tmp_path / "run", spec_text="", resolved_text="name: a\n")
    card = render_card(run, Recipe(model, "float32"))
    assert "base_model" not in front_matter(card)
    assert "A LoRA for `mine`" in card
    assert 'from_pretrained("path/to/mine"' in card


@pytest.mark.parametrize(
    ("recipe", "matter"),
    [
        (Recipe("owner/model", "float32"), {"base_model": "owner/model"}),
        (Recipe("owner/model", "float32", license="apache-2.0"), {"license": "apache-2.0"}),
        (
            Recipe("owner/model", "float32", license="own-terms"),
            {"license": "other", "license_name": "own-terms", "license_link": "https://huggingface.co/owner/model"},
        ),
        (Recipe("owner/model", "float32", peft_module="transformer"), {"library_name": "peft"}),
        (Recipe("owner/model", "float32"), {"library_name": "diffusers"}),
    ],
)
def test_the_front_matter_has_licence_library_and_base_model(
    recipe: Recipe, matter: dict[str, str], tmp_path: Path
) -> None:
    run = RunFolder.create(tmp_path / "run", spec_text="", resolved_text="name: a\n")
    found = front_matter(render_card(run, recipe))
    assert {key: found.get(key) for key in matter} == matter
    assert ("license" in found) is (recipe.license is not None)


def test_the_shipped_generator_has_the_licence_of_its_weights() -> None:
    recipe = resolve.build("generators", spec_from_dict(DATA).generator).recipe()
    assert recipe.license == "cc-by-sa-4.0"
    assert recipe.comfyui == WEIGHTS


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (WEIGHTS, f"ComfyUI: load `{WEIGHTS}`, at strength 1.0. Checked:"),
        ("comfyui_lora.safetensors", f"`comfyui_lora.safetensors`, which has the weights of `{WEIGHTS}`"),
        (None, "ComfyUI: not checked for this family"),
    ],
)
def test_the_card_says_what_was_checked_for_comfyui(file: str | None, sentence: str, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", spec_text="", resolved_text="name: a\n")
    assert sentence in render_card(run, Recipe("owner/model", "float32", comfyui=file))


# --- several LoRAs at once ------------------------------------------------------------------------------------------


def saved_lora(folder: Path, spec: Lora, *, seed: int) -> Path:
    """The file of a random LoRA of the small Stable Diffusion."""
    generator = small("sd")
    weights = lora.attach(generator.adapter_module, spec, generator.lora_targets, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            weight += 0.1 * torch.randn_like(weight)
    folder.mkdir()
    generator.save_lora(folder, lora.folded(generator.adapter_module, spec))
    return folder / WEIGHTS


def test_the_sum_of_loras_draws_what_plain_diffusers_draws_with_all_of_them(tmp_path: Path) -> None:
    one = saved_lora(tmp_path / "one", Lora(rank=2, strength=0.25), seed=1)
    two = saved_lora(tmp_path / "two", Lora(rank=3, strength=0.5, targets=("attn1.to_q", "ff.net.2")), seed=2)
    generator = small("sd")
    LoraSum(generator.adapter_module, [one, two]).set([0.7, -0.4])
    with torch.no_grad():
        ours = generator.sample(["a cat"], [3]).images
        base = generator.sample(["a cat"], [3], base=True).images
    pipe = DiffusionPipeline.from_pretrained(generator.params.model, dtype=torch.float32)
    pipe.scheduler = type(generator.pipe.scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    for name, file in (("one", one), ("two", two)):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    pipe.set_adapters(["one", "two"], [0.7, -0.4])
    noise = torch.Generator().manual_seed(3)
    theirs = pipe("a cat", **generator.recipe().call, generator=noise, output_type="pt").images
    assert (theirs - base).abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_dp_generate_draws_with_several_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("one", 0), ("two", 1)):
        spec = make_spec(train={"steps": 1, "batch": 1, "lr": 1e-2, "seed": seed})
        Engine(spec, build=with_stub_judges).fit(name)

    def drawn(*words: str) -> bytes:
        code, out, err = dp(capsys, "generate", *words)
        assert code == 0, err
        return Path(out.strip()).read_bytes()

    one, two = drawn("one", "a cat"), drawn("two", "a cat")
    both = drawn("one", "two", "a cat", "--strength", ".7", "--strength", ".7")
    assert len({one, two, both}) == 3
    assert Path("one/generated/000-a-cat-seed0-one0.7-two0.7.png").read_bytes() == both
    assert drawn("one", "two", "a cat", "--strength", ".7") == both
    assert drawn("one", "two", "a cat", "--strength", "1", "--strength", "0") == one

    code, out, err = dp(capsys, "generate", "one", "two", "a cat", "--strength", "1,0.7", "--strength", "0", "-n", "2")
    assert code == 0, err
    assert [Path(line).name for line in out.splitlines()] == [
        "000-a-cat-seed0-one1-two0.png", "001-a-cat-seed1-one1-two0.png",
        "000-a-cat-seed0-one0.7-two0.png", "001-a-cat-seed1-one0.7-two0.png", "000-a-cat-seed0-one1_0.7-two0.png",
    ]  # fmt: skip
    assert Path(out.splitlines()[0]).read_bytes() == one
    code, _, err = dp(capsys, "generate", "one", "two", "a cat", *(["--strength", "0,1"] * 2))
    assert (code, "only one --strength can be a list" in err) == (2, True)
    code, _, err = dp(capsys, "generate", "one", "two", "a cat", *(["--strength", "1"] * 3))
    assert code == 2
    assert "expected one --strength, or one for each of 2 runs, got 3" in err
    code, _, err = dp(capsys, "generate", "one", "two", "a cat", "--strength", ".7", ".7")
    assert code == 2
    assert "expected a prompt after the runs, got `.7`" in err
    assert "--strength 0.7 --strength 0.5" in err
    resolved = tmp_path / "two" / RESOLVED
    resolved.write_text(resolved.read_text().replace("type: tiny\n", "type: tiny\n  steps: 2\n", 1))
    code, _, err = dp(capsys, "generate", "one", "two", "a cat")
    assert code == 2
    assert "two has another generator than one; different: generator.steps" in err


def test_a_list_of_strengths_draws_a_sheet(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Engine(make_spec(train={"steps": 1, "batch": 1}), build=with_stub_judges).fit("one")
    single = {}
    for strength in ("0", "0.5", "1"):
        code, out, err = dp(capsys, "generate", "one", "a cat", "--seed", "4", "--strength", strength)
        assert code == 0, err
        single[Path(out.strip()).name] = Path(out.strip()).read_bytes()
    assert len(set(single.values())) == 3
    words = ("generate", "one", "a cat", "--seed", "3", "-n", "2", "--strength", "0, 0.5,1", "--out", "all")
    code, out, err = dp(capsys, *words)
    assert code == 0, err
    *images, sheet = map(Path, out.splitlines())
    assert sheet.name == "000-a-cat-seed3-strength0_0.5_1.png"
    assert len(images) == 6
    for path in images:
        if "seed4" in path.name:
            assert path.read_bytes() == single[path.name.replace("001", "000")]
    shown = np.asarray(Image.open(sheet).convert("RGB"), dtype=float)
    wide = [x for x in range(shown.shape[1]) if (shown[:, x] < 250).any()]
    tall = [y for y in range(shown.shape[0]) if (shown[y] < 250).any()]
    assert wide[-1] - wide[0] == 3 * 160 + 2 * 6 - 1  # a column for each strength, a row for each seed
    assert 2 * 160 < tall[-1] - tall[0] < 3 * 160
    for wrong in ("0,", "a", "0,nan", "0..1"):
        code, _, err = dp(capsys, "generate", "one", "a cat", "--strength", wrong)
        assert code == 2
        assert f"expected finite numbers, got `--strength {wrong}`" in err
    code, _, err = dp(capsys, "generate", "one", "a cat", "--strength", "0", "--strength", "1")
    assert (code, "--strength 0,0.5,1" in err) == (2, True)


# --- starting from a LoRA -------------------------------------------------------------------------------------------


def test_a_training_starts_from_the_lora_of_a_run_and_keeps_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = Engine(make_spec(), build=stubs()).fit("first").run
    start = read(first / WEIGHTS)
    (tmp_path / "specs").mkdir()
    file = tmp_path / "specs" / "spec.yaml"
    file.write_text(yaml.safe_dump(DATA))
    spec = resolve.load_spec(file, overrides=["train.lora.init=first", "train.lora.rank=6", "train.lora.strength=2"])
    engine = Engine(spec, build=stubs())
    assert_same(lora.folded(engine.generator.adapter_module, spec.train.lora), start)
    assert not engine.done
    run = engine.fit("second").run
    assert facts(run / WEIGHTS)["dualproc.rank"] == "6"
    shutil.rmtree(first)
    monkeypatch.chdir("/")
    kept = open_run(tmp_path / "second")[1]
    assert str(kept.train.lora.init).startswith(f"{tmp_path}/second/inputs/")
    assert_same(lora.folded(Engine(kept, build=stubs()).generator.adapter_module, kept.train.lora), start)


def assert_same(folded: dict[str, torch.Tensor], layers: dict[str, Any]) -> None:
    """Assert that a LoRA with its scale folded in adds the same to the weights as a file's layers."""
    for name, layer in layers.items():
        change = folded[f"{name}.lora_B.weight"] @ folded[f"{name}.lora_A.weight"]
        torch.testing.assert_close(change, layer.second @ layer.first)


def test_a_start_may_also_be_a_file_and_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = saved_lora(tmp_path / "one", Lora(rank=2), seed=1)
    assert make_spec(train={"lora": {"init": "one"}}).train.lora.init == "one/pytorch_lora_weights.safetensors"
    assert make_spec(train={"lora": {"init": f"one/{file.name}"}}).train.lora.init == f"one/{file.name}"
    for wrong, message in (("two", "no such file: two"), ("/etc/hosts", "is not a relative path"), ("{x}", "no such")):
        with pytest.raises(SpecError, match=re.escape(message)):
            make_spec(train={"lora": {"init": wrong}})


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = saved_lora(tmp_path / "one", Lora(rank=4), seed=1)
    plain = small("sd").adapter_module

    def start(spec: Lora, path: Path) -> None:
        module = copy.deepcopy(plain)
        lora.attach(module, spec, ("attn1.to_q", "attn1.to_k"), seed=0)
        start_from(module, spec, path)

    with pytest.raises(RunError, match=r"layers that are not trained here: .* and \d+ more\n.*train.lora.targets"):
        start(Lora(rank=4), file)
    few = tmp_path / "few.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "attn1.to_q" in name}
    save_file(kept, few)
    start(Lora(rank=4), few)
    with pytest.raises(RunError, match=r"has the rank 4\n.*train.lora.rank to 4"):
        start(Lora(rank=3), few)
    save_file({name: value[:, :-1].contiguous() if "lora_A" in name else value for name, value in kept.items()}, few)
    with pytest.raises(RunError, match="has other shapes"):
        start(Lora(rank=4), few)
    save_file({name: value for name, value in kept.items() if "lora_A" in name}, few)
    with pytest.raises(RunError, match=r"is damaged: it has no .*lora_B"):
        start(Lora(rank=4), few)
    with pytest.raises(RunError, match=r"not a LoRA in diffusers' format: .*alpha"):
        start(Lora(rank=4), tmp_path / "one" / "comfyui_lora.safetensors")
    few.write_bytes(b"nothing")
    with pytest.raises(RunError, match="cannot read the LoRA"):
        start(Lora(rank=4), few)


def test_rank_and_alpha_in_the_header_of_a_file_are_applied(tmp_path: Path) -> None:
    plain = {"transformer.a.lora_A.weight": torch.randn(4, 3), "transformer.a.lora_B.weight": torch.randn(5, 4)}
    noted = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})}
    save_file(plain, tmp_path / "plain.safetensors")
    save_file(plain, tmp_path / "noted.safetensors", noted)
    one, two = (read(tmp_path / f"{name}.safetensors")["a"] for name in ("plain", "noted"))
    torch.testing.assert_close(two.second, 2 * one.second)
    torch.testing.assert_close(two.first, one.first)


# --- a longer training ----------------------------------------------------------------------------------------------


def numbers(run: Path) -> list[tuple[Any, ...]]:
    return [(one.step, one.loss, one.grad_norm, one.referee) for one in RunFolder.open(run).metrics()]


@pytest.mark.parametrize("stop", [None, {"patience": 2, "min_delta": 0.0}], ids=["", "stop"])
@pytest.mark.parametrize("steps", [2, 3], ids=["", "between_checkpoints"])
def test_a_finished_run_made_longer_equals_one_that_was_planned_so(
    stop: dict[str, Any] | None, steps: int, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"referee": {"type": "tiny-referee"}} if stop else {}
    train = {"watch": {"every": 1, "images": 1}, "stop": stop} if stop else {}
    whole = Engine(make_spec(train={**train, "steps": 6}, **more), build=stubs()).fit(tmp_path / "whole")
    short = Engine(make_spec(train={**train, "steps": steps}, **more), build=stubs()).fit(tmp_path / "run")
    before = (short.run / WEIGHTS).read_bytes()
    longer = Engine(make_spec(train={**train, "steps": 6}, **more), build=stubs()).fit(tmp_path / "run", resume=True)
    assert longer.outcome.steps == whole.outcome.steps
    assert longer.outcome.lora_step == whole.outcome.lora_step
    assert numbers(longer.run) == numbers(whole.run)
    assert (longer.run / WEIGHTS).read_bytes() == (whole.run / WEIGHTS).read_bytes() != before
    for name in (RESOLVED, "evaluation.json", "samples/before_after.png"):
        assert (longer.run / name).read_bytes() == (whole.run / name).read_bytes()


def test_steps_may_only_be_raised_and_only_by_training(tmp_path: Path) -> None:
    run = Engine(make_spec(), build=stubs()).fit(tmp_path / "run").run
    with pytest.raises(RunError, match=r"different: train\.steps\n +train.steps may only be raised"):
        Engine(make_spec(train={"steps": 1}), build=stubs()).fit(run, resume=True)
    with pytest.raises(RunError, match=r"different: train\.lr\n"):
        Engine(make_spec(train={"steps": 4, "lr": 1e-3}), build=stubs()).fit(run, resume=True)
    with pytest.raises(RunError, match=r"different: train\.steps"):  # as in `dp score RUN --set`
        open_run(run, overrides=["train.steps=4"])
    falling = {"steps": 2, "lr_decay": 0.5}
    run = Engine(make_spec(train=falling), build=stubs()).fit(tmp_path / "falling").run
    with pytest.raises(RunError, match=r"train\.steps\n.* only if train.lr_decay is 0"):  # it would have fallen later
        Engine(make_spec(train=falling | {"steps": 4}), build=stubs()).fit(run, resume=True)
