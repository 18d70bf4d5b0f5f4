"""Checks of dualproc on one NVIDIA GPU (H100 or H200) in at most nine minutes, the most important ones first.

    gpu_check.py --plan-only --out build/gpu                        beforehand, on any CPU: what `dp plan` predicts
    gpu_check.py --out build/gpu --plans build/gpu/plans.json       on the GPU
    gpu_check.py --scale small --device cpu --out build/gpu         a rehearsal on a CPU
    gpu_check.py --scale small --device pretended --out build/gpu   a rehearsal on the tests' pretended GPU

Nothing is fetched: the toy models are the shipped ones, the real-size ones (FLUX.1-schnell, Qwen2.5-VL-7B) get random
weights on the device (`real_size.py`). Each check prints one line, PASS, FAIL or SKIP with what it measured, and
OUT/gpu_check.json is written anew after each, so that a run that is cut short loses nothing. A check FAILs if it raises
an exception, exceeds its time limit or misses a wanted value. The exit code is 0 if none FAILed, else 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_profile
import gpu_real
import gpu_toy
import torch
import transformers
from gpu_machine import FULL, ROOT, SMALL, Machine, OutOfTime, Report, Skip, in_a_line, rounded
from real_size import configurations

from dualproc import registry
from dualproc.cli.progress import quiet
from dualproc.errors import DualprocWarning


@dataclass(frozen=True)
class Check:
    """One check, and what it is expected to take."""

    name: str
    run: Callable[[Machine, Report], None]
    seconds: float
    """Estimate at full scale on an H100."""
    shares: bool = False
    """Whether it uses the engine that is built once for all checks in bfloat16."""
    pretends: bool = True
    """Whether the pretended GPU can do it."""
    spare: float = 0
    """Seconds of the budget that must be left, where that is more than the estimate."""
    most: float = 0
    """Its time limit, where that is not twice the estimate."""


CHECKS = (
    Check("versions", gpu_toy.versions, 10),
    Check("demo_fit", gpu_toy.demo_fit, 80),
    Check("real_bf16_b1", gpu_real.one_image, 50, shares=True),
    Check("profile", gpu_profile.profile, 35, shares=True),
    Check("real_bf16_q5", gpu_real.five_questions, 10, shares=True),
    Check("real_bf16_b4", gpu_real.four_images, 20, shares=True),
    Check("real_sampling", gpu_real.sampling, 25, shares=True),
    Check("second_variant_memory", gpu_toy.second_variant, 25),
    Check("families", gpu_toy.families, 80, most=110),
    Check("real_4bit", gpu_real.four_bits, 45, pretends=False),
    Check("real_8bit", gpu_real.eight_bits, 40, pretends=False),
    Check("resume_on_cuda", gpu_toy.resume, 25),
    Check("attention_windows", gpu_real.attention_windows, 15),
    Check("compile", gpu_profile.compiled, 110, shares=True, pretends=False, spare=150),
    Check("offload_real", gpu_real.offloaded, 130),
)
"""In the order in which they run."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Within, OutOfTime is raised when the time is over, as soon as Python code runs."""

    def over(_signal: int, _frame: Any) -> None:
        raise OutOfTime(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_check(check: Check, machine: Machine, left: float) -> dict[str, Any]:
    """One check's result; `left` is what is left of the budget in seconds."""
    report, started = Report(), time.monotonic()
    needed = max(check.seconds, check.spare) if machine.full else 0
    limit = min(left, check.most or max(2 * check.seconds, 40) if machine.full else 240)
    result: dict[str, Any] = {"check": check.name, "status": "PASS"}
    machine.ends = started + limit
    try:
        if needed > left:
            raise Skip(f"needs about {needed:.0f} s, {left:.0f} s of the budget are left")
        if machine.kind == "pretended" and not check.pretends:
            raise Skip("the pretended GPU has no kernels for it")
        with time_limit(limit):
            check.run(machine, report)
    except Skip as reason:
        result |= {"status": "SKIP", "reason": str(reason)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a check must not take the others with it; OutOfTime, SystemExit and pytest's too
        result |= {
            "status": "FAIL",
            "reason": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}",
            "traceback": traceback.format_exc().replace(f"{ROOT}/", ""),
        }
    if report.missed:
        reasons = [result.get("reason"), f"wanted: {'; '.join(report.missed)}"]
        result |= {"status": "FAIL", "reason": "; ".join(reason for reason in reasons if reason)}
    return result | {"seconds": time.monotonic() - started, "facts": report.facts}


def run_all(checks: Sequence[Check], machine: Machine, budget: float) -> list[dict[str, Any]]:
    """The results of all checks; printed and written as they come."""
    started, results = time.monotonic(), list[dict[str, Any]]()
    for check in checks:
        if not check.shares:
            machine.engine = None
        machine.tidy()
        result = run_check(check, machine, budget - (time.monotonic() - started))
        results.append(rounded(result))
        facts = ", ".join(filter(None, (result.get("reason"), in_a_line(result["facts"]))))
        print(f"{result['status']} {check.name}: {facts} ({result['seconds']:.0f} s)", flush=True)
        if "traceback" in result:
            print("    " + "\n    ".join(result["traceback"].strip().splitlines()[-30:]), flush=True)
        whole = {"device": machine.kind, "scale": machine.scale, "seconds": time.monotonic() - started}
        (machine.out / "gpu_check.json").write_text(json.dumps(rounded(whole) | {"checks": results}, indent=1))
        if not machine.alive():
            print("The GPU refuses everything after that error: the other checks need a new process.", flush=True)
            break
    return results


def silence() -> None:
    """Keep the libraries' bars and warnings, and dualproc's, out of the output."""
    quiet()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=DualprocWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # else a line for every matrix product in 8 bits


def make_plugins_known() -> None:
    """Let the registry find this checkout's plugins where dualproc is not installed: by a distribution of its own."""
    if any(entry.distribution == "dualproc" for entry in registry.entries("generators")):
        return
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = Path(tempfile.mkdtemp(), f"dualproc-{project['version']}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dualproc\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(groups))
    sys.path.append(str(folder.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="Where gpu_check.json goes.")
    parser.add_argument("--budget", type=float, default=540, metavar="SECONDS", help="For all checks together.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="These checks only.")
    parser.add_argument("--list", action="store_true", help="Print the checks and their estimates.")
    parser.add_argument("--scale", choices=[FULL, SMALL], default=FULL)
    parser.add_argument("--device", choices=["cuda", "cpu", "pretended"], default="cuda")
    parser.add_argument("--plans", type=Path, metavar="FILE", help="What `--plan-only` wrote.")
    parser.add_argument("--plan-only", action="store_true", help="Write OUT/plans.json and end; some minutes, no GPU.")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{check.name:24}{check.seconds:5.0f} s" for check in CHECKS))
        return
    if args.out is None:
        parser.error("--out is missing")
    if args.device == "cuda" and not torch.cuda.is_available() and not args.plan_only:
        parser.error("torch sees no GPU here; to rehearse: --device cpu --scale small")
    if unknown := set(args.only or ()) - {check.name for check in CHECKS}:
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    args.out.mkdir(parents=True, exist_ok=True)
    silence()
    make_plugins_known()
    torch.set_num_threads(min(4, torch.get_num_threads()))  # more make the toy models slower on the CPU
    with ExitStack() as kept:
        configs = kept.enter_context(configurations(args.scale))
        if args.plan_only:
            plans = gpu_real.predictions(configs, args.scale)
            (args.out / "plans.json").write_text(json.dumps(rounded(plans), indent=1))
            return
        scratch = Path(kept.enter_context(tempfile.TemporaryDirectory()))
        machine = Machine(args.device, args.scale, args.out.resolve(), scratch, configs)
        if args.plans is not None:
            machine.plans = json.loads(args.plans.read_text())
        if args.device == "pretended":
            machine.traffic = kept.enter_context(gpu_toy.pretending())
        chosen = [check for check in CHECKS if args.only is None or check.name in args.only]
        results = run_all(chosen, machine, args.budget)
    counts = {status: sum(result["status"] == status for result in results) for status in ("PASS", "FAIL", "SKIP")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()), f"on {torch.__version__}")
    sys.exit(1 if counts["FAIL"] else 0)


if __name__ == "__main__":
    main()
