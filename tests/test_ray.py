"""`--ray`: what a fit takes of a node, messages, and fits on a Ray cluster of this machine (where Ray is installed)."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from test_cli_run import SPEC, dp

from dualproc.cli.bench_jobs import plan_jobs
from dualproc.cli.ray_jobs import Needs, RayJob, gpu_memory, gpu_share, needs_of, plan_needs, train
from dualproc.errors import DualprocError
from dualproc.plan.dry_run import Memory, Plan
from dualproc.run import RunFolder
from dualproc.run.folder import WEIGHTS

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
ONE = SPEC.replace(", low: {row: 0.6}", "").replace("batch: 1, lora", "batch: 1, checkpoint_every: 2, lora")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The spec `short` with one variant, and a checkpoint every two steps."""
    file = tmp_path / "short.yaml"
    file.write_text(ONE)
    return file


def planned(**gigabytes: float) -> Plan:
    """A plan whose peak on each device is this many GB."""
    memory = {name.replace("_", ":"): Memory(round(size * 1e9), 0, 0, 0, 0) for name, size in gigabytes.items()}
    return Plan((), 0, memory, {}, 0, "", ())


def test_a_fit_takes_the_share_of_a_gpu_that_its_plan_says() -> None:
    assert [gpu_share(peak * 1e9, 80e9) for peak in (60, 36, 24, 17.9)] == [1, 0.5, 0.3333, 0.25]
    assert gpu_share(1e9, None) == 1
    for peak in (0.5, 3, 7, 11):
        share = gpu_share(peak * 1e9, 80e9)
        assert int(1 / share) * peak < 80 * 0.93
    assert needs_of(planned(cuda_0=30), cpus=1, gpu_bytes=80e9) == Needs(1, 0.5, 1_000_000_000)
    assert needs_of(planned(cuda_0=30, cuda_1=8), cpus=1, gpu_bytes=80e9).gpus == 2
    assert needs_of(planned(cpu=0.5), cpus=2, gpu_bytes=80e9) == Needs(2, 0, 1_500_000_000)
    assert str(Needs(1, 0.5, 1_500_000_000)) == "1 CPU, 0.5 GPU, 1.50 GB of main memory"


def test_memory_of_a_cluster_s_gpus_is_that_of_the_smallest_type() -> None:
    small, large = {"GPU": 1.0, "accelerator_type:L4": 1.0}, {"GPU": 8.0, "accelerator_type:H100": 1.0}
    assert gpu_memory([large, {"CPU": 8.0}]) == 80e9
    assert gpu_memory([large, small]) == 24e9
    assert gpu_memory([{"GPU": 1.0, "accelerator_type:A100": 1.0}]) == 40e9  # 40 or 80: Ray does not say
    assert gpu_memory([large, {"GPU": 1.0}]) is None
    assert not Needs(1, 1, 0).fits({"CPU": 8.0})
    assert Needs(1, 0, 10).fits({"CPU": 1.0, "memory": 10.0})


def test_one_plan_serves_all_variants_and_seeds(tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    file.write_text(SPEC)
    jobs = plan_jobs([str(file)], (), None, tmp_path, seeds=2)
    found = plan_needs(jobs, [{"CPU": 2.0}])
    assert len(found) == 4
    assert len({id(needs) for needs in found.values()}) == 1
    (needs, *_) = found.values()
    assert needs.gpus == 0
    assert 1e9 < needs.memory < 1.5e9
    assert plan_needs(jobs[:1], [{"CPU": 2.0, "GPU": 1.0, "accelerator_type:H100": 1.0}])[jobs[0]].gpus < 0.1


def test_jobs_and_ray_exclude_each_other(capsys: pytest.CaptureFixture[str], spec: Path) -> None:
    code, _, err = dp(capsys, "bench", spec, "--jobs", "2", "--ray", "local")
    assert code == 2
    assert "`--jobs` and `--ray` exclude each other" in err


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
@pytest.mark.parametrize("command", ["bench", "sweep"])
def test_missing_ray_is_one_message(capsys: pytest.CaptureFixture[str], spec: Path, command: str) -> None:
    grid = ("--grid", "train.seed=0..1") if command == "sweep" else ()
    code, _, err = dp(capsys, command, spec, *grid, "--ray", "local")
    assert code == 2
    assert "`--ray` needs Ray, which is not installed\n  pip install 'dualproc[ray]'" in err


def test_node_that_cannot_run_a_job_says_why(spec: Path, tmp_path: Path) -> None:
    (job,) = plan_jobs([str(spec)], (), None, tmp_path)
    code, text = train(job, tmp_path / "nowhere" / ".mark", str(tmp_path), 1, "0.1.0")
    assert code is None
    assert text.endswith(f"does not see the folder {tmp_path / 'nowhere'}")
    code, text = train(job, spec, str(tmp_path / "gone"), 1, "0.1.0")
    assert text.endswith(f"does not see the folder {tmp_path / 'gone'}")
    assert "has dualproc 0.1.0, and not 9" in train(job, spec, str(tmp_path), 1, "9")[1]
    assert not job.folder.exists()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of one node without CPUs, to which tests add nodes."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    small = {"include_dashboard": False, "object_store_memory": 100 * 1024**2}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    yield made
    made.shutdown()


def in_background(run: Path, after: int, action: Any) -> threading.Thread:
    """Call `action` as soon as a run has this many training steps."""

    def watch() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and len(steps(run)) < after:
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def steps(run: Path) -> list[int]:
    """The training steps in the metrics of a run."""
    file = run / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith(b"\n")]


@needs_ray
def test_a_lost_node_and_ctrl_c_lose_nothing(
    capsys: pytest.CaptureFixture[str], cluster: Any, spec: Path, tmp_path: Path
) -> None:
    """A fit is interrupted, resumed, and its node dies: the LoRA is that of an undisturbed run, bit for bit."""
    settings = ("--set", "train.steps=20")
    first = cluster.add_node(num_cpus=1)
    run = tmp_path / "out" / "short" / "high"
    command = ("bench", spec, *settings, "--out", tmp_path / "out", "--ray", cluster.address)

    watching = in_background(run, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    code, _, err = dp(capsys, *command)
    watching.join()
    assert code == 130
    assert f"--ray {cluster.address}" in err
    saved = RunFolder(run).saved_step
    assert saved == len(steps(run))
    assert 2 <= saved < 12

    def replace_node() -> None:
        cluster.add_node(num_cpus=1)
        cluster.remove_node(first, allow_graceful=False)

    watching = in_background(run, saved + 3, replace_node)
    code, out, err = dp(capsys, *command)
    watching.join()
    assert code == 0, err
    assert "Ray at" in out
    assert "short/high: " in out
    assert steps(run) == list(range(1, 21))
    assert not list((tmp_path / "out").glob(".ray-*"))

    assert dp(capsys, "run", spec, *settings, "--out", tmp_path / "alone")[0] == 0
    one, other = (load_file(folder / WEIGHTS) for folder in (run, tmp_path / "alone"))
    assert all(one[name].equal(other[name]) for name in one)


@needs_ray
def test_node_that_does_not_see_the_folder_ends_the_bench_with_one_message(
    cluster: Any, spec: Path, tmp_path: Path
) -> None:
    import ray

    node = cluster.add_node(num_cpus=1)
    (job,) = plan_jobs([str(spec)], (), None, tmp_path)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        running = RayJob(ray, job, Needs(1, 0, 0), tmp_path / "elsewhere" / ".mark")
        with pytest.raises(DualprocError, match="does not see the folder") as raised:
            running.failure()
        assert "shared disk" in (raised.value.hint or "")
    finally:
        ray.shutdown()
        cluster.remove_node(node)


@needs_ray
def test_sweep_on_a_ray_of_this_machine(capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path) -> None:
    grid = ("--grid", "train.lr=5e-5,1e-4", "--set", "evaluation.seeds=1")
    code, _, err = dp(capsys, "sweep", spec, *grid, "--out", tmp_path / "out", "--ray", "local")
    assert code == 0, err
    rows = json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]
    assert [row["setting"] for row in rows] == ["train.lr=5e-5", "train.lr=1e-4"]
    assert (tmp_path / "out" / "sweep.html").exists()


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_address_that_cannot_be_reached_is_one_message(
    capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path, address: str
) -> None:
    code, _, err = dp(capsys, "bench", spec, "--out", tmp_path / "out", "--ray", address)
    assert code == 2
    assert f"cannot reach Ray at `{address}`" in err
    assert "--ray local" in err
    assert err.count("error:") == 1
