"""Check dualproc on one NVIDIA GPU (H100 or H200) in at most nine minutes, the most important checks first.

    gpu_check.py --plan-only --out build/gpu                        first, on any CPU: the predictions of `dp plan`
    gpu_check.py --out build/gpu --plans build/gpu/plans.json       on the GPU
    gpu_check.py --scale small --device cpu --out build/gpu         a rehearsal on a CPU
    gpu_check.py --scale small --device pretended --out build/gpu   a rehearsal on the pretended GPU of the tests

Nothing is downloaded. The toy models are the shipped ones; the models of real size (FLUX.1-schnell, Qwen2.5-VL-7B) get
random weights on the device (`real_size.py`). Each check prints one line: PASS, FAIL or SKIP, and its measurements.
OUT/gpu_check.json is rewritten after each check, so an interrupted run loses nothing. A check fails if it raises an
exception, exceeds its time limit or misses a required value. The exit code is 1 if a check failed, else 0.
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
    """One check, with its estimated time and its needs."""

    name: str
    run: Callable[[Machine, Report], None]
    seconds: float
    """Estimated time at full scale on an H100."""
    shares: bool = False
    """Whether it uses the bfloat16 engine that several checks share."""
    pretends: bool = True
    """Whether the pretended GPU can run it."""
    spare: float = 0
    """Seconds of the budget that must remain, if more than the estimate."""
    most: float = 0
    """Its time limit in seconds, if it differs from twice the estimate."""


CHECKS = (
    Check("versions", gpu_toy.versions, 10),
    Check("demo_fit", gpu_toy.demo_fit, 80),
    Check("real_bf16_b1", gpu_real.one_image, 50, shares=True),
    Check("profile", gpu_profile.profile, 35, shares=True),
    Check("real_bf16_q5", gpu_real.five_questions, 10, shares=True),
    Check("real_bf16_b4", gpu_real.four_images, 20, shares=True),
    Check("real_sampling", gpu_real.sampling, 25, shares=True),
    Check("second_variant_memory", gpu_toy.second_variant, 25),
    Check("families", gpu_toy.families, 80, most=160),
    Check("real_4bit", gpu_real.four_bits, 45, pretends=False),
    Check("real_8bit", gpu_real.eight_bits, 40, pretends=False),
    Check("families_quantised", gpu_toy.quantized_families, 80, pretends=False, most=240),
    Check("resume_on_cuda", gpu_toy.resume, 25),
    Check("attention_windows", gpu_real.attention_windows, 15),
    Check("compile", gpu_profile.compiled, 110, shares=True, pretends=False, spare=150),
    Check("offload_real", gpu_real.offloaded, 130),
)
"""All checks, in the order in which they run."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Within, OutOfTime is raised when the time is over, once Python code runs again."""

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
    """Run one check and return its result; `left` is the remaining budget in seconds."""
    report, started = Report(), time.monotonic()
    needed = max(check.seconds, check.spare) if machine.full else 0
    limit = min(left, check.most or max(2 * check.seconds, 40) if machine.full else 240)
    result: dict[str, Any] = {"check": check.name, "status": "PASS"}
    machine.ends = started + limit
    try:
        if needed > left:
            raise Skip(f"needs about {needed:.0f} s, but only {left:.0f} s of the budget remain")
        if machine.kind == "pretended" and not check.pretends:
            raise Skip("the pretended GPU has no kernels for it")
        with time_limit(limit):
            check.run(machine, report)
    except Skip as reason:
        result |= {"status": "SKIP", "reason": str(reason)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # one check must not end the others, not even with SystemExit
        result |= {
            "status": "FAIL",
            "reason": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}",
            "traceback": traceback.format_exc().replace(f"{ROOT}/", ""),
        }
    if report.missed:
        reasons = [result.get("reason"), f"required: {'; '.join(report.missed)}"]
        result |= {"status": "FAIL", "reason": "; ".join(reason for reason in reasons if reason)}
    return result | {"seconds": time.monotonic() - started, "facts": report.facts}


def run_all(checks: Sequence[Check], machine: Machine, budget: float) -> list[dict[str, Any]]:
    """Run the checks; print and write each result at once, and return all of them."""
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
            print(
                "The GPU refuses all further work after this error: run the other checks in a new process.", flush=True
            )
            break
    return results


def silence() -> None:
    """Suppress progress bars and warnings of the libraries and of dualproc."""
    quiet()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=DualprocWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # otherwise it logs every 8-bit matrix product


def make_plugins_known() -> None:
    """If dualproc is not installed, add metadata from which the registry finds the plugins of this checkout."""
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
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of gpu_check.json")
    parser.add_argument("--budget", type=float, default=540, metavar="SECONDS", help="time for all checks together")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these checks")
    parser.add_argument("--list", action="store_true", help="print the checks and their estimated times")
    parser.add_argument("--scale", choices=[FULL, SMALL], default=FULL)
    parser.add_argument("--device", choices=["cuda", "cpu", "pretended"], default="cuda")
    parser.add_argument("--plans", type=Path, metavar="FILE", help="the plans.json that `--plan-only` wrote")
    parser.add_argument(
        "--plan-only", action="store_true", help="only write OUT/plans.json: some minutes, without a GPU"
    )
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{check.name:24}{check.seconds:5.0f} s" for check in CHECKS))
        return
    if args.out is None:
        parser.error("--out is missing")
    if args.device == "cuda" and not torch.cuda.is_available() and not args.plan_only:
        parser.error("torch finds no GPU; for a rehearsal: --device cpu --scale small")
    if unknown := set(args.only or ()) - {check.name for check in CHECKS}:
        parser.error(f"unknown checks: {', '.join(sorted(unknown))}; --list prints all")
    args.out.mkdir(parents=True, exist_ok=True)
    silence()
    make_plugins_known()
    torch.set_num_threads(min(4, torch.get_num_threads()))  # the toy models are slower on the CPU with more
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
