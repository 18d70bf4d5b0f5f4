"""What a run says about loading and memory: downloads, devices, an unusable GPU; `env.json`, report and model card."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from bench_examples import finished, outcome
from found_images import dp

from dualproc.cli.loading import loaded_models
from dualproc.cli.progress import quiet
from dualproc.errors import DualprocWarning, PluginError
from dualproc.kit import devices
from dualproc.kit.devices import describe_device, pick_device
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.report import memory_used, render_card, render_report
from dualproc.report.bench import BenchRow, cells, read_result
from dualproc.run import RunFolder, environment, peak_gpu_memory, reset_peak_gpu_memory
from dualproc.spec import spec_from_dict
from dualproc.types import Recipe

CARD = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=85_000_000_000)
NO_DRIVER = "Found no NVIDIA driver on your system.\nPlease check that you have an NVIDIA GPU"
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."
SPEC = """\
name: short
prompts: {template: "a cartoon of {subject}", train: [a cat, a dog], eval: [an owl, a house]}
question: {template: "Is this a drawing?"}
judge: [{type: tiny, weight: 2}, {type: tiny, checkpointing: true}]
train: {steps: 1, batch: 1, lora: {rank: 2}}
evaluation: {seeds: 1}
"""


# --- an NVIDIA GPU that torch cannot use ------------------------------------------------------------------------


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No sign of an NVIDIA GPU, a torch built for CUDA, and no warning so far."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    devices._warn_about_unusable_gpu.cache_clear()


def fails_with(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch cannot start CUDA, for this reason."""

    def init() -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(torch.cuda, "init", init)


def put_nvidia_smi(folder: Path, prints: str = "") -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{prints}'\n")
    program.chmod(0o755)


def warnings_of(call: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if issubclass(one.category, DualprocWarning)]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("reason", [NO_DRIVER, "No CUDA GPUs are available"])
def test_a_machine_without_a_gpu_is_not_warned_about(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(reason, monkeypatch)
    assert warnings_of(lambda: pick_device("auto")) == []


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("sign", "reason"),
    [("nvidia-smi", NO_DRIVER), ("nvidia-smi", TOO_OLD), ("version", "No CUDA GPUs are available"), ("", TOO_OLD)],
)
def test_an_unusable_gpu_is_warned_about_once(
    sign: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_with(reason, monkeypatch)
    if sign == "nvidia-smi":
        put_nvidia_smi(tmp_path)
    elif sign:
        (tmp_path / sign).touch()
    (message,) = warnings_of(lambda: [pick_device("auto"), pick_device("auto")])
    assert f"torch cannot use it: {reason.replace(chr(10), ' ')}\n" in message
    assert "Update the GPU's driver" in message
    assert "--set generator.device=cpu" in message
    assert warnings_of(lambda: pick_device("cpu")) == []
    with pytest.raises(PluginError, match=rf"torch finds no cuda .*: {reason[:20]}"):
        pick_device("cuda")


@pytest.mark.usefixtures("no_gpu")
def test_a_torch_without_cuda_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    (message,) = warnings_of(lambda: pick_device("auto"))
    assert "built without CUDA" in message


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden_on_purpose_is_not_warned_about(
    hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvidia_smi(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert warnings_of(lambda: pick_device("auto")) == []


# --- the lines after loading ------------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch describes one NVIDIA GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: CARD)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("card")
def test_a_gpu_is_described_by_name_and_memory() -> None:
    assert describe_device(torch.device("cuda")) == "cuda:0 (NVIDIA H100 80GB HBM3, 85.0 GB)"
    assert describe_device(torch.device("cuda:1")) == "cuda:1 (NVIDIA H100 80GB HBM3, 85.0 GB)"
    assert describe_device(torch.device("cpu")) == "cpu"


def test_a_run_names_what_was_loaded_and_the_memory_it_took(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = tmp_path / "short.yaml"
    spec.write_text(SPEC)
    code, out, _ = dp(capsys, "run", spec, "--out", tmp_path / "run", "--set", "referee={type: tiny-referee}")
    assert code == 0
    settings = "cpu, float32, sdpa attention"
    assert (
        f"  generator tiny          {settings}\n"
        f"  judge     tiny          {settings}, reads questions with a cache\n"
        f"  judge     tiny          {settings}, checkpointing, reads each question from its start (checkpointing)\n"
        f"  referee   tiny-referee  {settings}, reads questions with a cache\n"
    ) in out
    run = RunFolder.open(tmp_path / "run")
    ended = run.read_outcome()
    assert ended is not None
    used = f"{(ended.peak_memory or 0) / 1e9:.1f} GB of main memory"
    assert f"  memory    peak: {used}\n" in out
    assert f"1 training step in {ended.seconds:.1f} s; peak memory: {used}." in (run.path / "README.md").read_text()
    assert used in (run.path / "report.html").read_text()


def test_a_judge_whose_cache_is_not_exact_says_so() -> None:
    judge = object.__new__(TransformersJudge)
    judge.is_causal = judge.uses_cache = False
    assert judge.reading == "reads each question from its start (a cache would change its answers)"


@pytest.mark.usefixtures("card")
def test_auto_is_named_by_the_gpu_that_it_stands_for() -> None:
    models = {"type": "diffusers", "model": "acme/model", "dtype": "bfloat16", "quantize": "4bit"}
    changes = {"generator": models, "judge": {"type": "tiny", "device": "cpu", "offload": True}}
    spec = spec_from_dict({**yaml.safe_load(SPEC), **changes})
    engine: Any = SimpleNamespace(spec=spec, evaluators=SimpleNamespace(judge=object(), referee=None))
    assert loaded_models(engine) == [
        "  generator diffusers acme/model  cuda:0 (NVIDIA H100 80GB HBM3, 85.0 GB), bfloat16, 4bit, sdpa attention",
        "  judge     tiny                  cpu, float32, sdpa attention, offload",
    ]


# --- downloads --------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub whose every repository has every file, of 100,000 bytes."""
    content = bytes(100_000)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            for name, value in (
                ("Content-Length", str(len(content))), ("X-Repo-Commit", "a" * 40),
                ("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"'),
            ):  # fmt: skip
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def download(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[io.StringIO], str]]:
    """Downloads a file, with stderr replaced; returns what was written to it."""
    from huggingface_hub import constants, hf_hub_download

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    logger = logging.getLogger("huggingface_hub.file_download")
    before = logger.level, list(logger.filters)
    logger.setLevel(logging.NOTSET)
    logger.filters.clear()

    def load(stderr: io.StringIO) -> str:
        monkeypatch.setattr(sys, "stderr", stderr)
        quiet()
        hf_hub_download("acme/judge", "model.safetensors", endpoint=hub, cache_dir=tmp_path)
        return stderr.getvalue()

    yield load
    logger.setLevel(before[0])
    logger.filters = before[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_a_line_for_each_downloaded_file(download: Callable[[io.StringIO], str]) -> None:
    assert download(io.StringIO()) == "downloading model.safetensors ...\n"
    assert download(io.StringIO()) == ""  # it is in the cache


def test_a_terminal_shows_the_bars_of_downloads_and_no_others(download: Callable[[io.StringIO], str]) -> None:
    from huggingface_hub.utils import tqdm

    shown = download(Terminal())
    assert "100%" in shown
    assert "100k/100k" in shown
    assert "downloading" not in shown
    assert download(Terminal()) == ""
    for _ in tqdm(range(3), desc="Fetching 3 files", file=(other := Terminal())):
        pass
    assert other.getvalue() == ""


@pytest.mark.parametrize("stderr", [io.StringIO, Terminal])
def test_hidden_progress_bars_stay_hidden(
    stderr: type[io.StringIO], download: Callable[[io.StringIO], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", True)
    assert download(stderr()) == ""


# --- env.json and the peak memory -------------------------------------------------------------------------------

PROC = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16)
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_without_a_gpu_has_none_in_its_environment() -> None:
    found = environment()
    assert {name: found[name] for name in ("gpu", "cuda", "driver")} == {"gpu": None, "cuda": None, "driver": None}


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(("proc", "smi", "driver"), [(PROC, "", "570.86.15"), ("", "535.104.05", "535.104.05")])
def test_the_environment_names_gpu_and_driver(
    proc: str, smi: str, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["dualproc.run.environment"]
    monkeypatch.setattr(module, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    if proc:
        (tmp_path / "version").write_text(proc)
    if smi:
        put_nvidia_smi(tmp_path, smi)
    found = environment()
    assert found["gpu"] == "cuda:0 (NVIDIA H100 80GB HBM3, 85.0 GB)"
    assert (found["cuda"], found["driver"]) == ("13.2", driver)


def test_peak_gpu_memory_is_that_of_each_gpu_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [5_000_000_000, 0, 7_000_000_000]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: peaks[index])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda index: peaks.__setitem__(index, 0))
    assert peak_gpu_memory() == {"cuda:0": 5_000_000_000, "cuda:2": 7_000_000_000}
    reset_peak_gpu_memory()
    assert peak_gpu_memory() == {}


def test_peak_gpu_memory_is_in_report_card_and_table(tmp_path: Path) -> None:
    fit = outcome(peak_gpu_memory={"cuda:0": 56_600_000_000, "cuda:1": 17_000_000_000})
    folder = finished(tmp_path / "run", fit=fit)
    facts = json.loads((folder / "env.json").read_text()) | {"gpu": "cuda:0 (NVIDIA H100, 85.0 GB)", "driver": None}
    (folder / "env.json").write_text(json.dumps(facts))
    run = RunFolder.open(folder)
    assert run.read_outcome() == fit
    used = "1.2 GB of main memory, 56.6 GB on cuda:0, 17.0 GB on cuda:1"
    assert memory_used(fit) == used
    card = render_card(run, Recipe("acme/model", "bfloat16", {}))
    assert f"4 training steps in 42 s on cuda:0 (NVIDIA H100, 85.0 GB); peak memory: {used}." in card
    report = render_report(run)
    assert f"<dt>peak memory</dt><dd>{used}</dd>" in report
    assert "<dt>gpu</dt><dd>cuda:0 (NVIDIA H100, 85.0 GB)</dd>" in report
    assert "<dt>driver</dt>" not in report
    result = read_result(folder)
    assert result.machine.startswith("cuda:0 (NVIDIA H100, 85.0 GB), 2 CPU cores")
    assert cells(BenchRow("line_weight", None, "run", result))[-1] == "1.2 GB + 73.6 GB"


def test_runs_of_earlier_versions_are_read(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    written = json.loads((folder / "outcome.json").read_text())
    del written["peak_gpu_memory"], written["sha256"]
    (folder / "outcome.json").write_text(json.dumps(written))
    assert RunFolder.open(folder).read_outcome() == outcome()
