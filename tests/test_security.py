"""Untrusted input is data: no code in a spec, a model, a LoRA, a run or an image is run. See SECURITY.md."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from spec_texts import PLAIN, write

from dualproc import registry
from dualproc.cli import main
from dualproc.engine import lora
from dualproc.errors import PluginError, RunError, SpecError
from dualproc.resolve import build, check_plugins, load_spec, read_checked
from dualproc.run import RunFolder
from dualproc.spec import PluginRef, TaskSpec

WEIGHTS = Path(registry.__file__).parent / "weights"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A folder that exists if untrusted code was run."""
    return tmp_path / "code-was-run"


class Evil:
    """An object that makes the folder `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def model(folder: Path, name: str) -> Path:
    """A copy of a shipped model, to be damaged."""
    copy = folder / name
    shutil.copytree(WEIGHTS / name, copy)
    return copy


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def code(marker: Path) -> str:
    return f"import os\nos.mkdir({str(marker)!r})\nclass Evil:\n    pass\n"


def pickled(safetensors: Path, name: str, marker: Path) -> None:
    """Replace safe weights by a pickle with code."""
    safetensors.unlink()
    with safetensors.with_name(name).open("wb") as file:
        pickle.dump({"weight": Evil(marker)}, file)


def refusal(kind: str, **params: Any) -> str:
    """The message of the PluginError that building this plugin raises."""
    with pytest.raises(PluginError) as raised:
        build(kind, PluginRef.model_validate(params))
    assert "Traceback" not in str(raised.value)
    return str(raised.value)


# --- weights


@pytest.mark.parametrize(
    ("plugin", "name", "part"),
    [
        ("diffusers", "generator", "transformer"),
        ("diffusers", "generator", "text_encoder"),
        ("diffusers", "generator", "vae"),
        ("transformers", "judge", "."),
    ],
)
def test_missing_weights_are_refused(tmp_path: Path, plugin: str, name: str, part: str) -> None:
    folder = model(tmp_path, name)
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    removed = sorted(weights)[len(weights) // 2 :][:5]
    save_file({key: weights[key] for key in weights if key not in removed}, file, metadata={"format": "pt"})
    found = refusal(f"{name}s", type=plugin, model=str(folder))
    assert f"cannot load the {name} {str(folder)!r}: its files lack weights of its " in found
    assert "and 2 more" in found
    assert "initialised at random" in found


PICKLES = [
    ("transformer/diffusion_pytorch_model", "diffusion_pytorch_model.bin"),
    ("vae/diffusion_pytorch_model", "diffusion_pytorch_model.bin"),
    ("text_encoder/model", "pytorch_model.bin"),
]


def assert_unread_pickle(found: str, what: str, marker: Path) -> None:
    """The message says which weights are read, and the pickle was not loaded."""
    assert f"cannot load {what}" in found
    assert "its weights must be complete .safetensors files" in found
    assert not marker.exists()


@pytest.mark.parametrize(("part", "name"), PICKLES)
def test_a_generator_whose_weights_are_a_pickle_is_refused(part: str, name: str, tmp_path: Path, marker: Path) -> None:
    folder = model(tmp_path, "generator")
    pickled(folder / f"{part}.safetensors", name, marker)
    found = refusal("generators", type="diffusers", model=str(folder))
    assert_unread_pickle(found, "the generator", marker)


def test_a_judge_whose_weights_are_a_pickle_is_refused(tmp_path: Path, marker: Path) -> None:
    folder = model(tmp_path, "judge")
    pickled(folder / "model.safetensors", "pytorch_model.bin", marker)
    found = refusal("judges", type="transformers", model=str(folder))
    assert_unread_pickle(found, "the judge", marker)


def test_a_small_vae_whose_weights_are_a_pickle_is_refused(tmp_path: Path, marker: Path) -> None:
    from diffusers import AutoencoderTiny

    AutoencoderTiny(encoder_block_out_channels=(4,), decoder_block_out_channels=(4,), num_encoder_blocks=(1,),
                    num_decoder_blocks=(1,)).save_pretrained(tmp_path / "vae")  # fmt: skip
    pickled(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", marker)
    found = refusal("generators", type="tiny", reward_vae=str(tmp_path / "vae"))
    assert_unread_pickle(found, "the reward_vae", marker)


def test_a_pickle_named_safetensors_is_refused(tmp_path: Path, marker: Path) -> None:
    folder = model(tmp_path, "judge")
    pickled(folder / "model.safetensors", "model.safetensors", marker)
    assert "cannot load the judge" in refusal("judges", type="transformers", model=str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, struct.pack("<Q", 2**60)])
def test_damaged_weights_are_refused_without_a_traceback(content: bytes, tmp_path: Path) -> None:
    judge = model(tmp_path, "judge")
    (judge / "model.safetensors").write_bytes(content)
    assert str(judge) in refusal("judges", type="transformers", model=str(judge))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"_class_name": 1}', '{"_class_name": "DiffusionPipeline"}',
                                     '{"_class_name": "FluxPipeline", "vae": 3}', '{"_class_name": "load_image"}'],
)  # fmt: skip
def test_a_damaged_index_is_refused_without_a_traceback(content: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(content)
    assert "the generator" in refusal("generators", type="diffusers", model=str(tmp_path))


# --- code that comes with a model


def _custom_part(folder: Path, marker: Path) -> None:
    edit(folder / "model_index.json", transformer=["evil", "Evil"])
    (folder / "transformer" / "evil.py").write_text(code(marker))


def _custom_part_with_a_trusted_name(folder: Path, marker: Path) -> None:
    (folder / "transformer" / "diffusers.py").write_text(code(marker))


def _custom_pipeline(folder: Path, marker: Path) -> None:
    edit(folder / "model_index.json", _class_name=["pipeline", "Evil"])
    (folder / "pipeline.py").write_text(code(marker))


def _any_module(folder: Path, _marker: Path) -> None:
    edit(folder / "model_index.json", transformer=["subprocess", "Popen"])


@pytest.mark.parametrize("damage", [_custom_part, _custom_part_with_a_trusted_name, _custom_pipeline, _any_module])
def test_a_generator_with_custom_code_is_refused(
    damage: Callable[[Path, Path], None], tmp_path: Path, marker: Path
) -> None:
    folder = model(tmp_path, "generator")
    damage(folder, marker)
    found = refusal("generators", type="diffusers", model=str(folder))
    assert "never runs code that comes with a model" in found
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["AutoTokenizer", "LlavaProcessor"])
def test_the_user_is_not_asked_whether_a_tokenizer_may_run_code(
    kind: str, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(tmp_path, "generator")
    edit(folder / "model_index.json", tokenizer=["transformers", kind])
    for file in ("processor_config.json", "chat_template.jinja"):
        shutil.copy(WEIGHTS / "judge" / file, folder / "tokenizer" / file)
    for name in ("tokenizer_config.json", "config.json"):
        (folder / "tokenizer" / name).write_text(
            json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None], "AutoConfig": "evil.Evil"}})
        )
    (folder / "tokenizer" / "evil.py").write_text(code(marker))
    asked: list[Any] = []

    def answer(*question: Any) -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    found = refusal("generators", type="diffusers", model=str(folder))
    assert "cannot load the generator" in found
    if kind == "LlavaProcessor":
        assert "never runs code that comes with a model" in found
    assert not asked
    assert not marker.exists()


def test_a_pipeline_within_a_pipeline_is_refused(tmp_path: Path, marker: Path) -> None:
    folder = model(tmp_path, "generator")
    shutil.copytree(WEIGHTS / "generator", folder / "image_encoder")
    pickled(folder / "image_encoder" / "vae" / "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.bin", marker)  # fmt: skip
    edit(folder / "model_index.json", image_encoder=["diffusers", "FluxPipeline"])
    assert "its component image_encoder is itself a pipeline" in refusal(
        "generators", type="diffusers", model=str(folder)
    )
    assert not marker.exists()


@pytest.mark.parametrize(
    ("file", "needed"), [("config.json", True), ("processor_config.json", True), ("tokenizer_config.json", False)]
)
def test_custom_code_of_a_judge_is_not_run(
    file: str, needed: bool, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(tmp_path, "judge")
    names = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
    custom = {"auto_map": dict.fromkeys(names, "evil.Evil")}
    if file == "config.json":
        custom["model_type"] = "evil"
    if file == "processor_config.json":
        custom["processor_class"] = "EvilProcessor"
    edit(folder / file, **custom)
    (folder / "evil.py").write_text(code(marker))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    if needed:
        found = refusal("judges", type="transformers", model=str(folder))
        assert "never runs code that comes with a model" in found
    else:  # transformers uses its own classes for it
        build("judges", PluginRef.model_validate({"type": "transformers", "model": str(folder)}))
    assert not marker.exists()


@pytest.mark.parametrize("part", ["generator: {type: diffusers, model: m, trust_remote_code: true}",
                                  "judge: {type: transformers, model: m, trust_remote_code: false}",
                                  "judge: {type: tiny, images: {trust_remote_code: true}}",
                                  "generator: {type: tiny, call: {a: [{trust_remote_code: true}]}}",
                                  "referee: [{type: tiny}, {type: tiny, images: {trust_remote_code: yes}}]"],
)  # fmt: skip
def test_a_spec_cannot_trust_code(part: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="never runs code that comes with a model") as raised:
        read_checked(write(tmp_path, f"{PLAIN}{part}\n"))
    (problem,) = raised.value.problems
    assert problem.line == 5
    assert problem.path.endswith("trust_remote_code")
    assert "SECURITY.md" in str(problem)


def test_python_and_the_command_line_cannot_trust_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = {"type": "transformers", "model": "m", "images": {"trust_remote_code": True}}
    with pytest.raises(SpecError, match="never runs code"):
        build("judges", PluginRef.model_validate(ref))
    data = {"name": "n", "prompts": {"train": ["a"], "eval": ["b"]}, "question": {"template": "q"}, "judge": ref}
    with pytest.raises(SpecError, match="never runs code"):
        check_plugins(TaskSpec.model_validate(data))
    (tmp_path / "a.png").write_bytes(png(8, 8))
    with pytest.raises(SystemExit) as ended:
        main(["ask", str(tmp_path / "a.png"), "Is it a cat?", "--set", "images.trust_remote_code=true"])
    assert ended.value.code == 2
    assert "never runs code" in capsys.readouterr().err


def test_images_cannot_set_arguments_of_loading() -> None:
    found = refusal("judges", type="tiny", images={"cache_dir": "/somewhere", "do_rescale": False})
    assert "the judge's `images` cannot set cache_dir: expected arguments of the image processor only" in found


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{{ lipsum.__globals__['os'].mkdir('MARKER') }}"])
def test_a_chat_template_cannot_leave_its_sandbox(template: str, marker: Path) -> None:
    assert "unsafe" in refusal("judges", type="tiny", template=template.replace("MARKER", str(marker)))
    assert not marker.exists()


# --- images


def png(width: int, height: int) -> bytes:
    """A black PNG whose header has this size; large ones contain no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"\0" * (height * (3 * width + 1)) if width * height < 10_000 else b"\0"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(60_000, 60_000))
    spec = write(tmp_path, PLAIN)
    for arguments in (
        ["ask", str(bomb), "Is it a cat?"],
        ["score", str(bomb), "--spec", str(spec), "--field", "prompt=x"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        err = capsys.readouterr().err
        assert ended.value.code == 2
        assert "bomb.png cannot be read as an image" in err
        assert "3600000000 pixels" in err
        assert "Traceback" not in err


def test_a_decompression_bomb_as_a_visual_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))
    found = refusal("visual_prompts", type="image", path=str(tmp_path / "bomb.png"))
    assert "bomb.png cannot be read as an image" in found
    assert "3600000000 pixels" in found


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", png(64, 64)[:60], b"%!PS-Adobe\n", b"<svg/>", b"GIF89a"]
)
def test_a_damaged_image_is_refused(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["ask", str(tmp_path / "a.png"), "Is it a cat?"])
    assert ended.value.code == 2
    assert "cannot be read as an image" in capsys.readouterr().err
    assert "a.png" in refusal("visual_prompts", type="image", path=str(tmp_path / "a.png"))


# --- runs


def untrusted(folder: Path, text: str = PLAIN) -> Path:
    """An untrusted run folder with this spec."""
    run = folder / "run"
    write(run, text, "spec.resolved.yaml")
    (run / "pytorch_lora_weights.safetensors").write_bytes(b"")
    return run


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `dp` prints to stderr; it must end with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    err = capsys.readouterr().err
    assert ended.value.code == 2, err
    assert "Traceback" not in err
    return err


def test_a_run_that_refers_to_files_outside_its_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.png").write_bytes(png(8, 8))
    for path in ("../secret.png", str(tmp_path / "secret.png"), "inputs/link.png"):
        run = untrusted(tmp_path, PLAIN + f"visual_prompt: {{layers: [{{type: image, path: {path}}}]}}\n")
        (run / "inputs").mkdir(exist_ok=True)
        if not (run / "inputs" / "link.png").is_symlink():
            (run / "inputs" / "link.png").symlink_to(tmp_path / "secret.png")
        for command in (("generate", str(run), "a cat"), ("score", str(run))):
            assert "visual_prompt.layers.0.path" in fails(capsys, *command)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [id]", "a: &a [*a]", "[" * 10_000, "\0", "name: [n]",
                                  PLAIN + "judge: {type: tiny, images: {trust_remote_code: true}}"])  # fmt: skip
def test_the_spec_of_a_run_is_checked_like_any_other(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = untrusted(tmp_path, text)
    fails(capsys, "generate", str(run), "a cat")
    fails(capsys, "score", str(run))


@pytest.mark.parametrize("shapes", [None, (1,), (3, 3, 3)])
def test_a_damaged_lora_is_refused(
    shapes: tuple[int, ...] | None, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = untrusted(tmp_path)
    weights = run / "pytorch_lora_weights.safetensors"
    if shapes is None:
        weights.write_bytes(pickle.dumps(Evil(marker)))
    else:
        spec = load_spec(run / "spec.resolved.yaml")
        generator = build("generators", spec.generator)
        lora.attach(generator.adapter_module, spec.train.lora, generator.lora_targets, seed=0)
        names = lora.folded(generator.adapter_module, spec.train.lora)
        save_file({f"transformer.{name}": torch.zeros(shapes) for name in names}, weights)
    found = fails(capsys, "generate", str(run), "a cat")
    assert ("is damaged" if shapes is None else "has the shape") in found
    assert not marker.exists()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[1]", "1", '{"step": ' + "9" * 5000 + "}", '{"loss": ' + "9" * 400 + "}"]
)
def test_damaged_records_of_a_run_are_refused(text: str, tmp_path: Path) -> None:
    run = RunFolder.open(untrusted(tmp_path))
    for name in ("env.json", "evaluation.json", "outcome.json"):
        (run.path / name).write_text(text)
    (run.path / "metrics.jsonl").write_text(text + "\n")
    checkpoint = run.path / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, checkpoint / "tensors.safetensors")
    (checkpoint / "state.json").write_text("[" * 100_000)
    for read in (run.read_evaluation, run.read_outcome, run.metrics, run.latest_checkpoint):
        with pytest.raises(RunError, match="is damaged"):
            read()
    if text.startswith("["):
        with pytest.raises(RunError, match="is damaged"):
            run.environment  # noqa: B018


def test_the_sources_do_not_load_pickles_or_run_code() -> None:
    package = Path(registry.__file__).parent
    for file in package.rglob("*.py"):
        lazy = ["import_module"] if file == package / "__init__.py" else []  # two modules of dualproc, by fixed names
        assert list(risky(file.read_text(encoding="utf-8"))) == lazy, file


RISKS = ("import pickle", "from pickle import load", "x = eval('1')", "f(exec('1'))", "a = [torch.load(f)]",
         "importlib.import_module(name)", "import_module(name)", "yaml.load(f)", "f(trust_remote_code=True)",
         "{'trust_remote_code': True}")  # fmt: skip


def risky(source: str) -> Iterator[str]:
    """Imports and calls in a source that could run what they read; calls by the last part of their name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (one.name for one in names if one.name in ("pickle", "dill", "marshal", "shelve"))
            case ast.ImportFrom(module="pickle" | "dill" | "marshal" | "shelve" as name):
                yield name
            case ast.Call(func=ast.Name(id="eval" | "exec" | "import_module" | "__import__" as name)):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch" | "yaml"), attr="load")):
                yield "load"
            case ast.Call(func=ast.Attribute(attr="import_module")):
                yield "import_module"
            case ast.keyword(arg="trust_remote_code", value=ast.Constant(value=True)):
                yield "trust_remote_code"
            case ast.Dict(keys=keys, values=values):
                pairs = zip(keys, values, strict=True)
                yield from (
                    "trust_remote_code"
                    for key, value in pairs
                    if isinstance(key, ast.Constant) and key.value == "trust_remote_code"
                    and isinstance(value, ast.Constant) and value.value is True
                )  # fmt: skip


@pytest.mark.parametrize("source", RISKS)
def test_risky_sources_are_found(source: str) -> None:
    assert list(risky(source))
