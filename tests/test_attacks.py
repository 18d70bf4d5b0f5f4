"""Hostile plugins, specs, runs and files, by kind: one message, exit code 2, nothing lost. See SECURITY.md."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bench_examples import finished, outcome
from conftest import FAKE_PLUGINS
from filelock import FileLock
from found_images import dp
from markdown_it import MarkdownIt
from run_examples import SPEC, evaluation, measurement, record, score
from safetensors import SafetensorError
from safetensors.torch import save_file
from spec_texts import SMALL
from test_survival import break_plugin

import dualproc
from dualproc import Engine, load_spec, wording
from dualproc.__main__ import main as dualproc_main
from dualproc.cli import _options, main
from dualproc.cli.bench_jobs import alone
from dualproc.cli.output import with_options
from dualproc.cli.processes import Job, TrainingProcess
from dualproc.cli.specs import copies
from dualproc.engine.evaluators import Evaluators
from dualproc.engine.failures import plugin_failure
from dualproc.engine.fit import _interruptible
from dualproc.engine.lora import attach
from dualproc.engine.lora_files import LoraSum, start_from
from dualproc.engine.overlay import draw_canvas
from dualproc.errors import DualprocError, DualprocWarning, PluginError, RunError, SpecError
from dualproc.kit.image_files import read_image, to_tensor
from dualproc.kit.weights import safe_loading
from dualproc.report import markdown
from dualproc.report.bench import is_finished
from dualproc.resolve import build
from dualproc.run import RunFolder, portable
from dualproc.run.folder import _OURS, METRICS, RESOLVED, WEIGHTS
from dualproc.run.lock import HOLDER, LOCK, FolderLock, refuse_locked
from dualproc.run.lora_file import read_lora, write_lora
from dualproc.spec import Lora, PluginRef, shipped_specs
from dualproc.spec.fields import RUN_FOLDERS
from dualproc.types import StepRecord
from dualproc.wording import cause, printable

PACKAGE = Path(dualproc.__file__).parent
Capture = pytest.CaptureFixture[str]


def refused(capsys: Capture, *arguments: str | Path) -> str:
    """The message of `dp`, which must end with exit code 2 and one error."""
    code, _, err = dp(capsys, *arguments)
    assert (code, err.count("error:"), "Traceback" in err) == (2, 1, False), err
    return err


# --- plugins that do not behave


KINDS = ("generator", "judge", "referee", "reward", "visual_prompt", "anchor", "scorer", "save_lora")


@pytest.mark.parametrize(
    ("kind", "fault", "said"),
    [
        *((kind, "exit", "raised SystemExit: 0") for kind in KINDS),
        ("generator", "mute", "raised Mute: (its text cannot be shown)"),
        ("scorer", "mute", "raised Mute: (its text cannot be shown)"),
    ],
)
def test_a_plugin_that_ends_the_process_is_named(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, fault: str, said: str
) -> None:
    engine = Engine(load_spec(small, overrides=["train.steps=1"]))
    break_plugin(monkeypatch, f"{kind} 1 {fault}")
    with pytest.raises(DualprocError) as raised:
        engine.fit(tmp_path / "run")
    owner = {"referee": "judge", "save_lora": "generator"}.get(kind, kind.replace("_", " "))
    assert re.match(rf"{owner} 'small.* \(acme-small 1\.0, entry point .*\) {re.escape(said)}, ", str(raised.value))


@pytest.mark.parametrize("fault", ["exit", "mute"])
def test_a_plugin_that_ends_the_process_outside_a_fit_is_an_error(
    capsys: Capture, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    break_plugin(monkeypatch, f"scorer 1 {fault}")
    assert "scorer 'small' (acme-small 1.0" in refused(capsys, "score", tmp_path / "a.png", "--spec", small)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("generator", r"generator 'small' .* returned images of the shape \[.*\], expected \[1, 3, any, any\]"),
        ("judge", r"judge 'small' .* returned log-likelihoods of the shape \[.*\], expected \[1, 1, 2\]"),
        ("referee", r"judge 'small-referee' .* returned log-likelihoods of the shape \[.*\], expected \[1, 1, 2\]"),
        ("reward", r"reward 'small' .* returned rewards of the shape \[.*\], expected \[1\]"),
        ("anchor", r"anchor 'small' .* returned penalties of the shape \[.*\], expected \[1\]"),
        ("scorer", r"scorer 'small' .* returned values of the shape \[.*\], expected \[1\]"),
    ],
)
def test_a_result_of_a_wrong_shape_names_plugin_and_shape(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    engine = Engine(load_spec(small, overrides=["train.steps=1"]))
    break_plugin(monkeypatch, f"{kind} 1 shape")
    with pytest.raises(DualprocError, match=f"^{said}"):
        engine.fit(tmp_path / "run")


# --- text of any origin


def test_text_of_any_origin_is_printed_without_control_characters() -> None:
    assert printable("a\tb\nc é 🦉\u200d") == "a\tb\nc é 🦉\u200d"
    assert printable("\x1b]0;pwn\a\r\x7f\x9b\ud800\u2028") == r"\u001b]0;pwn\u0007\u000d\u007f\u009b\ud800\u2028"
    error = DualprocError("bad \x1b[31m", hint="\x07")
    assert str(error) == "bad \\u001b[31m\n  \\u0007"
    assert cause(ValueError("x" * 1_000_000)) == f"ValueError: {'x' * 388}..."


def test_everything_printed_passes_through_one_function() -> None:
    for file in PACKAGE.rglob("*.py"):
        if file != PACKAGE / "cli" / "output.py" and PACKAGE / "scaffold" not in file.parents:
            assert not re.search(r"typer\.s?echo\(|(?<![\w.])print\(", file.read_text(encoding="utf-8")), file


ESCAPE = r"\e]0;pwn\a"


@pytest.mark.parametrize(
    "change",
    [
        ('"Is it red?"', f'"{ESCAPE}{{x}}"'),
        ("name: small", f'"{ESCAPE}": 1\nname: small'),
        ("reward: {type: small}", f'reward: {{type: "{ESCAPE}"}}'),
        ("[a cat, a dog]", f'["{ESCAPE}", "{ESCAPE}"]'),
        ("{type: small}]}", f'{{type: image, path: "{ESCAPE}"}}]}}'),
        ("judge: {type: small}", f'judge: {{type: transformers, model: "./{ESCAPE}"}}'),
        ("judge: {type: small}", f'judge: {{type: small, "{ESCAPE}": 1}}'),
        ("name: small", f'variants: {{"{ESCAPE}": {{}}}}\nname: small'),
    ],
)  # fmt: skip
def test_a_spec_cannot_send_escapes_to_the_terminal(
    capsys: Capture, small: Path, tmp_path: Path, change: tuple[str, str]
) -> None:
    small.write_text(SMALL.replace(*change, 1))
    for command in (["spec", "check"], ["spec", "show"], ["run", "--set", "train.steps=1", "--out", tmp_path / "run"]):
        _, out, err = dp(capsys, *command, small)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out + err), out + err


# --- run folders


def stored(path: Path, spec: str = SPEC) -> Path:
    """A run without models: a spec, metrics, a checkpoint."""
    with RunFolder.create(path, spec_text=spec, resolved_text=spec) as run:
        run.log(record(1))
        run.save_checkpoint(1, {"a": torch.ones(8)}, {"done": 1})
    return path


@pytest.mark.parametrize("inside", ["samples", "checkpoints", "generated", "inputs", "sliders", "sliders/thick",
                                    "samples/base", "checkpoints/checkpoint-1"])  # fmt: skip
def test_overwriting_a_run_never_deletes_another(tmp_path: Path, inside: str) -> None:
    other = stored(stored(tmp_path / "run") / inside)
    before = {file: file.read_bytes() for file in other.rglob("*") if file.is_file()}
    with pytest.raises(RunError, match=r"has files that its run did not write, and that would be deleted with it: "):
        RunFolder.create(tmp_path / "run", spec_text=SPEC, resolved_text=SPEC, overwrite=True)
    with pytest.raises(RunError, match="did not write"):
        RunFolder.delete(tmp_path / "run")
    assert {file: file.read_bytes() for file in before} == before


def test_a_file_of_the_user_in_a_run_is_not_deleted(tmp_path: Path) -> None:
    (stored(tmp_path / "run") / "samples" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"did not write, and that would be deleted with it: samples/notes\.txt"):
        RunFolder.delete(tmp_path / "run")


@pytest.mark.parametrize(
    "file", ["events.out.tfevents.1.host.2.0", "1764195000.1/hparams.yml", "1764/events.out.tfevents.3"]
)
def test_files_of_tensorboard_belong_to_a_run(tmp_path: Path, file: str) -> None:
    logged = stored(tmp_path / "run") / "tensorboard" / file
    logged.parent.mkdir(parents=True)
    logged.write_text("")
    RunFolder.delete(tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_folders_of_a_run_are_no_names_of_variants(small: Path) -> None:
    assert {name for name in _OURS if "." not in name} == set(RUN_FOLDERS)
    for name in (*RUN_FOLDERS, "Samples"):
        small.write_text(f"variants: {{{name}: {{x: 1}}}}\n{SMALL}")
        with pytest.raises(SpecError, match=f"variants.{name}: `{name}` is the name of a folder in every run"):
            load_spec(small)


def test_one_flipped_bit_of_what_a_run_reads_back_is_noticed(tmp_path: Path) -> None:
    """Every file that a run reads back, flipped at 20 places each, is refused or read as it was."""
    run = RunFolder(stored(tmp_path / "run"))
    run.write_evaluation(evaluation())
    run.write_outcome(outcome())
    write_lora(run.path, lambda folder: save_file({"a.b": torch.ones(8)}, folder / WEIGHTS), {"title": "owl"})
    readers: dict[str, Callable[[], object]] = {
        "checkpoints/checkpoint-1/tensors.safetensors": run.latest_checkpoint,
        "checkpoints/checkpoint-1/state.json": run.latest_checkpoint,
        "metrics.jsonl": run.metrics,
        "evaluation.json": run.read_evaluation,
        "outcome.json": run.read_outcome,
        WEIGHTS: lambda: read_lora(run.path / WEIGHTS)[0],
    }
    rng, noticed = random.Random(0), 0
    for name, read in readers.items():
        file, before = run.path / name, repr(read())
        content = file.read_bytes()
        for _ in range(20):
            flipped = bytearray(content)
            flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(flipped)
            try:
                assert repr(read()) == before, name
            except (RunError, ValueError, SafetensorError):
                noticed += 1
        file.write_bytes(content)
    assert noticed > 100


def test_a_run_is_finished_only_with_its_whole_lora(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    content = (run / WEIGHTS).read_bytes()
    assert is_finished(run)
    (run / WEIGHTS).write_bytes(content[:-1])
    assert not is_finished(run)
    (run / WEIGHTS).unlink()
    assert not is_finished(run)
    sliders = finished(tmp_path / "sliders")
    (sliders / RESOLVED).write_text(f"{SPEC}sliders: {{row: {{from: 0, to: 1, degree: 2}}}}\n")
    for name in ("row", "row-2"):
        assert not is_finished(sliders)
        write_lora(sliders / "sliders" / name, lambda folder: save_file({"a": torch.ones(1)}, folder / WEIGHTS))
    assert is_finished(sliders)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("evaluation.json", b"{"),
        ("outcome.json", b"\xff"),
        ("outcome.json", None),
        ("env.json", b"[]"),
        ("env.json", None),
        ("samples/base/000-a-cartoon-of-an-owl-seed1.png", b"\x89PNG\r\n\x1a\n"),
        ("samples/base/000-a-cartoon-of-an-owl-seed1.png", None),
    ],
)
def test_a_damaged_run_is_a_row_of_the_bench_and_the_others_go_on(
    capsys: Capture, small: Path, tmp_path: Path, name: str, damage: bytes | None
) -> None:
    """`damage` is what the file contains instead; None is a named pipe, which nobody writes to."""
    small.write_text(f"{SMALL}variants: {{one: {{x: 1}}, two: {{x: 2}}}}\n")
    for variant in ("one", "two"):
        run = finished(tmp_path / "out" / "small" / variant)
        spec = load_spec(small, variant=variant)
        (run / RESOLVED).write_text(portable(spec, run).text)
    broken = tmp_path / "out" / "small" / "one" / name
    assert broken.exists()
    broken.unlink()
    if damage is None:
        os.mkfifo(broken)
    else:
        broken.write_bytes(damage)
    code, out, err = dp(capsys, "bench", small, "--out", tmp_path / "out")
    assert code == 1, err
    assert "already finished: 1 of 2 variants" in out
    assert f"warning: small/one failed: {broken}" in err or f"cannot read {broken}" in err
    assert f"dp score {broken.parents[0]}" in err or "delete it" in err or "samples" in name


@pytest.mark.parametrize(
    "change",
    [
        {"scores": ()}, {"scores": (score((0.1,)),)}, {"scores": (score((0.1,) * 4, name="other"),)}, {"judge": ()},
        {"referee": None}, {"preserved": (0.5,) * 5},
    ],
)  # fmt: skip
def test_an_evaluation_whose_parts_do_not_fit_together_is_damaged(tmp_path: Path, change: dict[str, object]) -> None:
    """Anybody can write one: a checksum is not needed."""
    run = RunFolder(stored(tmp_path / "run"))
    for base, trained in (({}, change), (change, {})):
        run.write_evaluation(evaluation(measurement(**base), **trained))
        with pytest.raises(RunError, match=r"evaluation\.json is damaged: its measurements are not of the same images"):
            run.read_evaluation()


@pytest.mark.parametrize("sliders", ["x", "{row: {from: 0, to: x, degree: 2.5}}", "{row: {degree: 2.0}}", "[1]"])
def test_sliders_of_a_run_that_are_not_valid_are_no_bug(tmp_path: Path, sliders: str) -> None:
    from dualproc.ui import runs as runs_of

    run = stored(tmp_path / "run", f"{SPEC}sliders: {sliders}\n")
    assert len(RunFolder(run).loras) == 1
    with pytest.raises(RunError, match="it has no valid sliders"):
        runs_of.sliders("run", tmp_path)


FIRST, SECOND = "part.0.lora_A.weight", "part.0.lora_B.weight"
LORAS = {
    "no matrix": ({FIRST: torch.tensor(1.0)}, ""),
    "a vector": ({FIRST: torch.ones(3)}, ""),
    "three dimensions": ({FIRST: torch.ones(2, 2, 2)}, ""),
    "another rank": ({SECOND: torch.ones(192, 7)}, ""),
    "a number": ({SECOND: torch.tensor(1.0)}, ""),
    "other outputs": ({SECOND: torch.ones(9, 2)}, ""),
    "endless rank": ({FIRST: torch.ones(5000, 4), SECOND: torch.ones(192, 5000)}, ""),
    "8 bits": ({FIRST: torch.ones(2, 4).to(torch.float8_e4m3fn)}, ""),
    "complex numbers": ({FIRST: torch.ones(2, 4, dtype=torch.complex64)}, ""),
    "long names": ({f"part.{n}{'x' * 9999}.lora_{ab}.weight": torch.ones(2, 2) for ab in "AB" for n in range(9)}, ""),
    "a list": ({}, "[]"),
    "null": ({}, "null"),
    "a word": ({}, '{"a.r": 2, "a.lora_alpha": "x"}'),
    "lists": ({}, '{"a.r": [2], "a.lora_alpha": [2]}'),
    "infinite": ({}, '{"a.r": 2, "a.lora_alpha": 1e999}'),
    "a large number": ({}, f'{{"a.r": 2, "a.lora_alpha": {10**1000}}}'),
    "deep": ({}, "[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("attack", LORAS)
def test_a_lora_file_with_odd_content_is_refused(attack: str, tmp_path: Path) -> None:
    """As the start of a training, and to draw with."""
    tensors, configuration = LORAS[attack]
    metadata = {"lora_adapter_metadata": configuration} if configuration else None
    save_file({FIRST: torch.ones(2, 4), SECOND: torch.ones(192, 2), **tensors}, tmp_path / "a.safetensors", metadata)

    def modules() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 192))

    with pytest.raises(DualprocError) as summed:
        LoraSum(modules(), [tmp_path / "a.safetensors"])
    module = modules()
    attach(module, Lora(rank=2), ("0",), seed=0)
    with pytest.raises(DualprocError) as started:
        start_from(module, Lora(rank=2), tmp_path / "a.safetensors")
    assert max(len(str(summed.value)), len(str(started.value))) < 2000


# --- images


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", b"P6 1 1 255\nabc",
                                     b"#define a_width 8\n#define a_height 8\nstatic char a_bits[] = {0};", None],
)  # fmt: skip
def test_only_listed_image_formats_in_regular_files_are_read(
    capsys: Capture, small: Path, tmp_path: Path, content: bytes | None
) -> None:
    """None is a named pipe, which nobody writes to."""
    file = tmp_path / "images" / "a.png"
    file.parent.mkdir()
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    reason = "not a regular file" if content is None else "not an image of a known format"
    for place in (file, file.parent):
        for command in (["ask", place, "Is it red?", "--judge", "small"], ["score", place, "--spec", small]):
            assert f"{file} cannot be read as an image: " in (err := refused(capsys, *command))
            assert reason in err
    with pytest.raises(PluginError, match=reason):
        build("visual_prompts", PluginRef.model_validate({"type": "image", "path": str(file)}))


def test_a_layer_reads_an_image_as_dp_ask_does(tmp_path: Path) -> None:
    """Rotated as its EXIF says, and grey of 16 bits not clipped."""
    import numpy as np
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    pixels = np.zeros((4, 8), np.uint16)
    pixels[:, 4:] = 32896
    Image.fromarray(pixels).save(tmp_path / "deep.png", exif=exif)
    canvas = Image.new("RGBA", (4, 8))
    build("visual_prompts", PluginRef.model_validate({"type": "image", "path": str(tmp_path / "deep.png")})).draw(
        canvas
    )
    assert np.asarray(canvas)[:, :, 0].tolist() == [[0] * 4] * 4 + [[128] * 4] * 4
    assert torch.equal(read_image(tmp_path / "deep.png"), to_tensor(canvas.convert("RGB")))


def test_only_one_place_opens_images() -> None:
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert ("Image.open(" in text) == (file == PACKAGE / "kit" / "image_files.py"), file


# --- links and special files in a run


@pytest.mark.parametrize("name", ["samples", "checkpoints", "inputs", "sliders", "generated", "samples/base"])
def test_folders_of_a_run_that_are_links_are_never_written(
    capsys: Capture, small: Path, tmp_path: Path, name: str
) -> None:
    run, elsewhere = finished(tmp_path / "run"), tmp_path / "elsewhere"
    (run / RESOLVED).write_text(portable(load_spec(small), run).text)
    if (run / name).exists():
        (run / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(RunError, match=f"{name} is a link"), RunFolder(run).writing():
        pass
    with pytest.raises(RunError, match=f"{name} is a link"):
        RunFolder(run).generated()
    (run / "outcome.json").unlink()
    for option in ("--resume", "--overwrite"):
        assert f"{run / name} is a link" in refused(capsys, "run", small, "--out", run, option)
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize("special", [Path.symlink_to, lambda path, _: os.mkfifo(path)])
def test_files_of_a_run_are_written_through_no_link_and_no_pipe(
    tmp_path: Path, special: Callable[[Path, Path], None]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run = stored(tmp_path / "run")
    for name, write in {
        LOCK: lambda: FolderLock(run),
        METRICS: lambda: RunFolder(run).log(record(2)),
        "../run.log": lambda: TrainingProcess(Job("a", None, (), load_spec("horizon", variant="high"), run), threads=1),
    }.items():
        (run / name).unlink(missing_ok=True)
        special(run / name, precious)
        with pytest.raises(RunError):
            write()
        (run / name).unlink()
        assert precious.read_text() == "mine"
    for name in (RESOLVED, "evaluation.json"):  # replaced, whatever they are
        (run / name).unlink(missing_ok=True)
        special(run / name, precious)
        RunFolder(run).write(name, "{}")
        assert (run / name).read_text() == "{}"
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("name", [RESOLVED, METRICS, "evaluation.json", "outcome.json", "env.json", "warnings.json",
                                  "checkpoints/checkpoint-1/state.json", WEIGHTS,
                                  "checkpoints/checkpoint-1/tensors.safetensors"])  # fmt: skip
def test_what_is_read_of_a_run_is_a_regular_file(tmp_path: Path, name: str) -> None:
    run = RunFolder(stored(tmp_path / "run"))
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    readers: list[Callable[[], object]] = [
        lambda: run.resolved, run.metrics, run.read_evaluation, run.read_outcome, lambda: run.environment,
        run.read_warnings, run.latest_checkpoint, lambda: read_lora(run.path / WEIGHTS),
    ]  # fmt: skip
    refusals = 0
    for read in readers:
        try:
            read()
        except (RunError, OSError) as error:
            refusals += "not a regular file" in str(error)
    assert refusals == 1


# --- models


def edited(folder: Path, source: str, file: str, **changes: object) -> Path:
    """A copy of a shipped model with changes in one of its configurations."""
    copy = Path(shutil.copytree(PACKAGE / "weights" / source, folder / source))
    config = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**config, **changes}))
    return copy


MODELS = {
    "kernel": ("judge", "config.json", {"attn_implementation": "evil/attention"}, "kernels from a repository are code"),
    "kernel of a part": ("judge", "config.json", {"_attn_implementation": {"vision_config": "evil/a@main:f"}},
                         "kernels from a repository are code"),
    "kernel of experts": ("judge", "config.json", {"experts_implementation": "evil/a"}, "kernels from a repository"),
    "kernel of a part's part": ("judge", "config.json",
                                {"text_config": {"deep": [{"attn_implementation": "paged|evil/a"}]}},
                                "kernels from a repository"),
    "experts of transformers": ("judge", "config.json", {"experts_implementation": {"text_config": "deepgemm"}},
                                "kernels from a repository"),
    "kernel of a quantisation": ("judge", "config.json",
                                 {"quantization_config": {"quant_method": "gptq", "backend": "evil/a"}},
                                 "kernels from a repository"),
    "quantisation with kernels": ("judge", "config.json", {"text_config": {"quantization_config": {
                                  "quant_method": "mxfp4"}}}, "`quant_method` is 'mxfp4': kernels from a repository"),
    "quantised generator": ("generator", "transformer/config.json",
                            {"quantization_config": {"quant_method": "gguf", "compute_dtype": "float32"}},
                            "kernels from a repository"),
    "mapping of kernels": ("judge", "config.json", {"kernel_config": {"kernel_mapping": {"RMSNorm": "evil/a:b"}}},
                           "kernels from a repository"),
    "use of kernels": ("judge", "config.json", {"use_kernels": True}, "kernels from a repository"),
    "classes": ("judge", "config.json", {"num_labels": 10**9}, "`num_labels` is 1,000,000,000, expected at most"),
    "layers": ("judge", "config.json", {"text_config": {"num_hidden_layers": 10**6}}, "asks for 1,000,000 layers"),
    "blocks": ("generator", "transformer/config.json", {"num_layers": 10**6}, "asks for 1,000,000 layers"),
    "list": ("generator", "vae/config.json", {"block_out_channels": [8] * 5000}, "asks for 5,000 layers"),
}  # fmt: skip


@pytest.mark.parametrize("attack", MODELS)
def test_a_configuration_cannot_ask_for_code_or_endless_models(tmp_path: Path, attack: str) -> None:
    source, file, changes, reason = MODELS[attack]
    folder = edited(tmp_path, source, file, **changes)
    plugin = {"judge": ("judges", "transformers"), "generator": ("generators", "diffusers")}[source]
    with pytest.raises(PluginError, match=f"cannot load the {source} .*{reason}"):
        build(plugin[0], PluginRef.model_validate({"type": plugin[1], "model": str(folder)}))


def test_kernels_are_not_fetched_while_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for them; here the implementation that is used where flash-attn is not installed."""
    from transformers.integrations import hub_kernels

    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)
    with (
        pytest.raises(PluginError, match="asks for kernels from the repository 'evil/attention', which are code"),
        safe_loading("the judge", "small", "a judge"),
    ):
        hub_kernels.load_and_register_attn_kernel("evil/attention", allow_all_kernels=True)


@pytest.mark.parametrize("settings", [{"num_beams": 10**6}, {"penalty_alpha": 0.6, "top_k": 4}, {"max_time": 1e-9},
                                      {"dola_layers": "high"}, {"return_dict_in_generate": True},
                                      {"cache_implementation": "offloaded"}, {"repetition_penalty": 5.0}])  # fmt: skip
def test_a_judge_answers_greedily_whatever_its_model_asks_for(tmp_path: Path, settings: dict[str, object]) -> None:
    """Without code from a repository, and without a million beams."""
    folder = edited(tmp_path, "judge", "config.json")
    known = json.loads((PACKAGE / "weights" / "judge" / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(known | settings))
    ours, theirs = (
        build("judges", PluginRef.model_validate({"type": "transformers", "model": str(place)}))
        for place in (PACKAGE / "weights" / "judge", folder)
    )
    image = torch.zeros(1, 3, 64, 64)
    asked = (image, ["Is this a drawing of a cat?"])
    assert theirs.generate(*asked, max_new_tokens=3) == ours.generate(*asked, max_new_tokens=3)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "processor_config.json"])
def test_a_model_with_a_named_pipe_is_refused(tmp_path: Path, name: str) -> None:
    folder = edited(tmp_path, "judge", "config.json")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(PluginError, match=f"{name} is not a regular file"):
        build("judges", PluginRef.model_validate({"type": "transformers", "model": str(folder)}))


# --- Markdown


@pytest.mark.parametrize("attack", [
    "<script>alert(1)</script>", "`<img src=x onerror=alert(1)>`", "\\<b>", "a\n\n# heading", "# heading", "- item",
    "1. item", "> quote", "[x](javascript:alert(1))", "![x](y)", "a | b", "&lt;b>", "***b***", "_b_", "~~b~~", "===",
])  # fmt: skip
def test_text_stays_text_in_markdown(attack: str) -> None:
    """Shown as it is by a Markdown parser that allows HTML, and without `<` for parsers that know no `\\<`."""
    shown = markdown.text(attack)
    assert "<" not in shown
    assert "\n" not in shown
    tokens = (
        MarkdownIt()
        .enable("table")
        .enable("strikethrough")
        .parse(f"> {shown}\n\n| a | b |\n| - | - |\n| {shown} | x |\n")
    )
    kinds = {token.type for token in tokens} | {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {
        "blockquote_open", "blockquote_close", "paragraph_open", "paragraph_close", "inline", "text", "table_open",
        "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close", "th_open",
        "th_close", "td_open", "td_close", "text_special",
    }  # fmt: skip


@pytest.mark.parametrize("model", ["`<img src=x onerror=alert(1)>", "a``b", "`"])
def test_code_stays_code_in_markdown(model: str) -> None:
    (paragraph,) = (token for token in MarkdownIt().parse(markdown.code(model)) if token.type == "inline")
    (span,) = paragraph.children or ()
    assert (span.type, span.content) == ("code_inline", model)


# --- names and folders that the system refuses

LONG, DEEP = "x" * 300, "d/" * 1000
COMMANDS = [
    ["ask", f"{LONG}.png", "A cat?"], ["ask", "a\0.png", "A cat?"], ["score", LONG],
    ["score", f"{LONG}.png", "--spec", "SPEC"],
    ["generate", LONG, "a cat"], ["export", LONG, "--at", "row=1", "--out", "x"], ["compare", LONG, LONG],
    ["bench", LONG],
    ["bench", "SPEC", "--out", LONG], ["bench", "SPEC", "--out", DEEP], ["run", "SPEC", "--out", LONG],
    ["run", "SPEC", "--out", DEEP], ["run", "SPEC", "--out", "a\0b"], ["run", LONG], ["plan", LONG],
    ["specs", "copy", "horizon", f"{DEEP}a.yaml"], ["spec", "check", "SPEC", "--set", f"{'a.' * 5000}a=1"],
    ["spec", "check", f"{LONG}.yaml"], ["run", "SPEC", "--out", "gone/x"], ["bench", "."],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:30])
def test_what_the_system_refuses_is_one_message(
    capsys: Capture, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Also in a current folder that was deleted, for the last command."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if command[-1] in ("gone/x", "."):
        (tmp_path / "here").rmdir()
    assert len(refused(capsys, *(str(small) if word == "SPEC" else word for word in command))) < 10_000


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_half_a_spec_is_not_left_on_a_full_disk(capsys: Capture, tmp_path: Path) -> None:
    """The limit on the size of files stands in for the disk; the system would also send a signal."""
    import resource

    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, earlier[1]))
        err = refused(capsys, "specs", "copy", "horizon", tmp_path / "h.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)
        signal.signal(signal.SIGXFSZ, ignored)
    assert f"cannot write {tmp_path / 'h.yaml'}: File too large" in err
    assert not (tmp_path / "h.yaml").exists()


CLOSED = [
    ["ask", "CLOSED", "Is it red?"], ["ask", "CLOSED/a.png", "Is it red?"], ["score", "CLOSED"],
    ["score", "CLOSED/a.png", "--spec", "SPEC"], ["bench", "CLOSED"], ["bench", "SPEC", "--out", "CLOSED"],
    ["generate", "CLOSED", "a cat"], ["export", "CLOSED", "--at", "x=1", "--out", "x"], ["compare", "CLOSED", "CLOSED"],
    ["run", "CLOSED/a.yaml"], ["run", "SPEC", "--out", "CLOSED/run"], ["run", "SPEC", "--out", "CLOSED", "--resume"],
    ["run", "SPEC", "--out", "CLOSED", "--overwrite"], ["sweep", "SPEC", "--grid", "train.lr=1,2", "--out", "CLOSED"],
    ["plan", "CLOSED/a.yaml"], ["audit", "CLOSED/a.yaml"], ["push", "CLOSED", "a/b"],
    ["spec", "check", "CLOSED/a.yaml"], ["specs", "copy", "horizon", "CLOSED/a.yaml"],
    ["plugins", "new", "dualproc-x", "--out", "CLOSED/x"],
    ["ui", "--runs", "CLOSED", "--no-browser"],
]  # fmt: skip


@pytest.mark.skipif(
    shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs to give up the rights of the system's root"
)
def test_a_folder_of_another_user_is_one_message(small: Path, tmp_path: Path) -> None:
    """All commands in one process without the right to ignore permissions; that the folder is closed is checked."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    os.chown(closed, 65534, 65534)
    code = (
        "import contextlib, io, json, os, sys\n"
        "from dualproc.cli import main\n"
        "ends, commands, folder = [], *map(json.loads, sys.argv[1:])\n"
        "assert not os.access(folder, os.X_OK)\n"
        "for command in commands:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        try:\n"
        "            main(command)\n"
        "        except SystemExit as end:\n"
        "            ends.append([end.code, err.getvalue()])\n"
        "print(json.dumps(ends))"
    )
    places = {"SPEC": str(small), "CLOSED": str(closed)}
    commands = [[re.sub("SPEC|CLOSED", lambda found: places[found[0]], word) for word in words] for words in CLOSED]
    rights = "-dac_override,-dac_read_search"
    without = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", sys.executable, "-c", code]
    ended = subprocess.run(
        [*without, json.dumps(commands), json.dumps(str(closed))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(FAKE_PLUGINS / "small")])},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ends = json.loads(ended.stdout)
    assert len(ends) == len(commands)
    for command, (status, err) in zip(commands, ends, strict=True):
        assert (status, err.count("error:"), "Traceback" in err) == (2, 1, False), (command, err)


# --- cost


def test_the_canvas_of_a_thin_image_is_bounded() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in ((64, 64), (5000, 5000), (1000, 20)):
            width, height = draw_canvas([], *size).size
            assert (width // size[0], height // size[1]) == (-(-512 // min(size)),) * 2
    for size in ((100_000, 1), (1, 4000)):
        with pytest.warns(DualprocWarning, match=rf"on an image of {size[0]} x {size[1]} pixels: .* instead of 512"):
            width, height = draw_canvas([], *size).size
        assert width * height <= 2**24


def test_canvases_of_many_image_sizes_are_not_all_kept(small: Path) -> None:
    views = Evaluators(load_spec(small))
    for width in range(8, 40):
        views.judge_view(torch.zeros(1, 3, 8, width))
    assert 0 < len(views._canvases) <= 8


@pytest.mark.usefixtures("small")
def test_a_chain_of_extends_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "0.yaml").write_text(SMALL)
    for number in range(1, 100):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number - 1}.yaml\n")
    assert load_spec(tmp_path / "15.yaml").name == "small"
    with pytest.raises(SpecError, match="extends: more than 16 files extend each other"):
        load_spec(tmp_path / "99.yaml")


def test_a_spec_that_is_a_named_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(SpecError, match="regular file"):
        load_spec(tmp_path / "a.yaml")


# --- what the command line prints


@pytest.mark.parametrize("command", [["schema"], ["ask", "IMAGE", "Is it red?", "--judge", "small", "--json"],
                                     ["score", "IMAGE", "--spec", "SPEC", "--json"]],
)  # fmt: skip
def test_plugins_that_print_do_not_spoil_json(
    capfd: Capture, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setenv("SMALL_FAULT", f"{'import' if command == ['schema'] else 'judge'} 1 print")
    places = {"IMAGE": tmp_path / "a.png", "SPEC": small}
    code, out, err = dp(capfd, *(places.get(word, word) for word in command))
    assert code == 0, err
    assert json.loads(out)
    assert "noise\nnoise\n" in err


class Confirmed:
    """A progress that notes that Ctrl+C was confirmed."""

    told = 0

    def step(self, record: StepRecord, total: int) -> None: ...

    def images(self, done: int, total: int) -> None: ...

    def ending(self) -> None:
        self.told += 1


def test_ctrl_c_is_confirmed_at_once_and_not_when_the_step_ends() -> None:
    progress = Confirmed()
    with _interruptible(progress) as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert (interrupted(), progress.told) == (True, 1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_while_the_command_line_is_imported_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "dualproc.cli", Interrupted())
    with pytest.raises(SystemExit) as ended:
        dualproc_main()
    assert ended.value.code == 130


def test_hints_name_only_options_that_the_command_has() -> None:
    full = RunError("cannot write a", hint="free some space on that disk, then continue with `resume=True`")
    closed = RunError("cannot write a", hint="choose a folder that you may write to with `out`")
    assert with_options(full, _options(["run", "a"])).endswith("then continue with `--resume`")
    assert with_options(closed, _options(["generate", "a"])).endswith("with `--out`")
    assert with_options(full, _options(["generate", "a"])) == "cannot write a\n  free some space on that disk"
    assert with_options(closed, _options(["score", "a"])) == "cannot write a"
    assert with_options(closed, _options(["plugins", "new", "a"])).endswith("with `--out`")


def test_a_bad_parameter_of_a_plugin_is_no_reason_to_install_it_again() -> None:
    with pytest.raises(PluginError) as raised:
        build("judges", PluginRef.model_validate({"type": "tiny", "template": "{{ not closed"}))
    assert "install" not in str(raised.value)


# --- processes


def test_a_process_ends_when_the_other_end_of_its_stdin_is_closed(tmp_path: Path) -> None:
    code = (
        "import sys, time, dualproc.cli; from dualproc.cli.processes import run_job\n"
        "dualproc.cli.main = lambda **_: (print('started', flush=True), time.sleep(60)); run_job()"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "error")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"started\n"
    process.stdin.close()
    assert process.wait(timeout=30) != 0
    process.stdout.close()


def test_the_folder_is_locked_before_models_are_loaded(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LockedError(Exception):
        pass

    def attach(*_: object, **__: object) -> None:
        with pytest.raises(RunError, match="in use by another run"):
            refuse_locked(tmp_path / "run")
        raise LockedError

    monkeypatch.setattr("dualproc.engine.lora.attach", attach)
    with pytest.raises(LockedError):
        main(["run", str(small), "--out", str(tmp_path / "run")])
    refuse_locked(tmp_path / "run")


@pytest.mark.nightly
def test_a_fit_whose_bench_is_gone_ends_after_its_step(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system closes the other end of its stdin when the bench ends, also by SIGKILL."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PACKAGE.parent), str(FAKE_PLUGINS / "small")]))
    job = Job(str(small), None, ("train.steps=100000", "train.watch.every=1000"), load_spec(small), tmp_path / "run")
    process = TrainingProcess(job, threads=1)
    assert process.stdin is not None
    try:
        deadline = time.monotonic() + 60
        while not process.steps_done() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.stdin.close()
        assert process.wait(timeout=60) in (-signal.SIGTERM, 130), job.log.read_text()
    finally:
        process.kill()
    assert 0 < RunFolder(job.folder).saved_step == process.steps_done()


def test_commands_are_quoted_for_a_shell() -> None:
    assert wording.command("dp", "generate", "my run", "an owl$(touch a)") == "dp generate 'my run' 'an owl$(touch a)'"


# --- output that is gone


@pytest.mark.skipif(os.name != "posix", reason="closes streams with a shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_not_a_file_that_is_opened_later(tmp_path: Path, closed: str) -> None:
    """`dp ... >&-`: else a library's message would be written into a file of the run, and `sys.stdout` be None."""
    code = (
        "import sys, dualproc.cli\n"
        "from dualproc.__main__ import main\n"
        "def command():\n"
        "    sys.stdin.read(0), sys.stdout.isatty(), sys.stderr.isatty()\n"
        "    with open(sys.argv[1], 'w') as file:\n"
        "        file.write(str(file.fileno()))\n"
        "dualproc.cli.main = command\n"
        "main()"
    )
    shell = ["sh", "-c", f'exec "$0" -c "$1" "$2" {closed}', sys.executable, code, str(tmp_path / "number")]
    assert subprocess.run(shell, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
    assert int((tmp_path / "number").read_text()) > 2


@pytest.mark.parametrize("gone", ["reader", "disk"])
@pytest.mark.parametrize("command", ["run", "score", "bench"])
def test_a_fit_outlives_its_output(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, command: str
) -> None:
    """Ctrl+C in `dp run ... | tee log` ends `tee` first; the disk of a log may be full."""
    if gone == "disk" and not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    run = tmp_path / "runs" / "small"
    if command != "run":  # a bench of a finished run prints its table
        Engine(load_spec(small)).fit(run)
    if command == "score":
        (run / "evaluation.json").unlink()
    for name in ("stdout", "stderr"):
        reader, writer = os.pipe()
        os.close(reader)
        stream = open("/dev/full" if gone == "disk" else writer, "w")  # noqa: SIM115 (open until the test ends)
        for one in (name, f"__{name}__"):
            monkeypatch.setattr(sys, one, stream)
    words = {"run": [small, "--out", run], "score": [run], "bench": [small, "--out", tmp_path / "runs"]}[command]
    with pytest.raises(SystemExit) as end:
        main([command, *map(str, words)])
    assert end.value.code in (0, None)
    assert (run / WEIGHTS).exists()
    assert (run / "evaluation.json").exists()
    assert command != "bench" or (tmp_path / "runs" / "side_effects.md").exists()


# --- several commands at once


def test_a_look_at_the_lock_does_not_refuse_a_run(tmp_path: Path) -> None:
    """`dp ui` and `dp bench` take the lock for a moment, to see whether it is free."""
    FolderLock(tmp_path).release()
    look = FileLock(tmp_path / LOCK, thread_local=False)
    look.acquire(blocking=False)
    ended = threading.Timer(0.05, look.release)
    ended.start()
    FolderLock(tmp_path).release()
    ended.join()


def test_a_lock_whose_holder_has_just_ended_is_one_message(tmp_path: Path) -> None:
    with FileLock(tmp_path / LOCK, thread_local=False):
        (tmp_path / HOLDER).write_bytes(b"\xff")
        with pytest.raises(RunError, match=r"is in use by another run\n"):
            refuse_locked(tmp_path)


@pytest.mark.parametrize("command", [["bench", "SPEC"], ["sweep", "SPEC", "--grid", "train.lr=1e-4"]])
def test_a_second_bench_in_the_same_folder_is_refused(
    capsys: Capture, small: Path, tmp_path: Path, command: list[str]
) -> None:
    """Both would write the same table and logs; with --overwrite, one deletes what the other has finished."""
    out = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    (out / "other").mkdir(parents=True)
    (out / "linked").symlink_to(tmp_path / "elsewhere")  # runs on another disk are no reason to refuse
    words = [str(small) if word == "SPEC" else word for word in command]
    with alone(out):
        assert "in use by another run" in refused(capsys, *words, "--out", out)
        assert "in use by another run" in refused(capsys, *words, "--out", out, "--overwrite")
    assert sorted(file.name for file in out.iterdir()) == [LOCK, "linked", "other"]


def test_what_a_killed_process_left_is_deleted_when_the_run_is_written_again(tmp_path: Path) -> None:
    run = RunFolder(finished(tmp_path / "run"))
    left = [run.path / ".aside-7-evaluation.json", run.samples / ".aside-7-before_after.png"]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_text("half")
    with run.writing():
        assert not any(file.exists() for file in left)


def test_a_fit_whose_log_was_deleted_has_a_reason(small: Path, tmp_path: Path) -> None:
    job = Job("no-such.yaml", None, (), load_spec(small), tmp_path / "runs" / "run")
    fit = TrainingProcess(job, threads=1)
    shutil.rmtree(tmp_path / "runs")
    assert fit.failure() == "exit code 2"


def test_a_copy_of_a_spec_that_was_ended_is_completed(capsys: Capture, tmp_path: Path) -> None:
    """The spec itself is written last, because a file of its name is never replaced."""
    name = next(name for name, file in shipped_specs().items() if len(copies(name, file, tmp_path / "a.yaml")) > 1)
    copy = ["specs", "copy", name, tmp_path / "a.yaml"]
    code, out, _ = dp(capsys, *copy)
    written = re.findall("^wrote (.+)$", out, re.MULTILINE)
    assert (code, written[-1]) == (0, str(tmp_path / "a.yaml"))
    Path(written[-1]).unlink()
    assert dp(capsys, *copy)[0] == 0


def test_a_failure_is_named_without_a_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traceback cannot be kept: the message matters more."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    error = plugin_failure(MemoryError("no room"))
    assert error is not None
    assert "no room" in error.message
    assert "traceback: not written: No such file or directory" in str(error.hint)


@pytest.mark.parametrize(
    "rest",
    [
        {"RANK": "x"},
        {"WORLD_SIZE": "y"},
        {"RANK": "2"},
        {"RANK": "0", "MASTER_PORT": ""},
        {"RANK": "0", "MASTER_PORT": "x"},
    ],
)
def test_an_environment_that_no_launcher_made_is_one_message(
    capsys: Capture, small: Path, monkeypatch: pytest.MonkeyPatch, rest: dict[str, str]
) -> None:
    """Variables that a container or an earlier job left behind; the message is not swallowed as that of a follower."""
    known = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"} | rest
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    assert "unset RANK WORLD_SIZE" in refused(capsys, "run", small)
