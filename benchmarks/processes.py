"""Speed of one fit in several processes on this machine's CPU, as a multiple of one process.

    python benchmarks/processes.py [--processes 2] [--rounds 15] [--steps 2] [--set train.batch=4] ...

Each process has one thread. Three ways to train take turns, `--steps` steps each, so that other load on the machine
affects all of them alike: one process with the whole batch; several processes that share it, as `torchrun` starts them;
and one process with the largest share alone. The last is the limit: several processes cannot be faster than one that
computes only its share, because a part of a step does not shrink with the batch.

Prints medians over the rounds, and their lowest and highest round. *CPU* compares the CPU seconds of the busiest
process in place of the time that passed: other load hardly changes it, and it leaves out the waiting for one another.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

WHOLE, SHARE = "whole", "share"


class Seconds(NamedTuple):
    """Of one training step: the time that passed, and the CPU time of the busiest process."""

    passed: float
    cpu: float


def serve(file: str, variant: str | None, overrides: list[str], count: int) -> None:
    """The life of a process: trains `steps` steps for every line `WAY STEPS` of stdin, and prints its seconds."""
    from dualproc import Engine, load_spec
    from dualproc.cli.memory import share
    from dualproc.cli.progress import quiet

    quiet()
    spec = load_spec(file, variant=variant, overrides=overrides)
    engines = {WHOLE: Engine(spec)}
    if engines[WHOLE].processes.count == 1:
        engines[SHARE] = Engine(share(spec, count))
    for engine in engines.values():
        engine.step()
        engine.step()
    print("ready", flush=True)
    for line in sys.stdin:
        way, steps = line.split()
        began = time.perf_counter(), time.process_time()
        for _ in range(int(steps)):
            engines[way].step()
        spent = time.perf_counter() - began[0], time.process_time() - began[1]
        print(json.dumps([seconds / int(steps) for seconds in spent]), flush=True)


class Group:
    """The processes of one fit."""

    def __init__(self, count: int, arguments: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._processes = []
        for rank in range(count):
            environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            if count > 1:
                environment |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
            command = [sys.executable, __file__, "--serve", *arguments]
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            )
        if any(line.strip() != "ready" for line in self._answers()):
            self.close()
            raise SystemExit("a process did not start; its message is above")

    def steps(self, way: str, count: int) -> Seconds:
        """Seconds of a step, on average over `count` steps."""
        for process in self._processes:
            assert process.stdin is not None
            print(way, count, file=process.stdin, flush=True)
        passed, cpu = zip(*map(json.loads, self._answers()), strict=True)
        return Seconds(max(passed), max(cpu))

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.communicate()

    def _answers(self) -> list[str]:
        return [process.stdout.readline() for process in self._processes if process.stdout is not None]


def shown(values: list[float], unit: str = "") -> str:
    """Median, and range."""
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="line_weight")
    parser.add_argument("--variant", default="thick")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.spec, given.variant, given.set, given.processes)
        return
    arguments = ["--spec", given.spec, "--variant", given.variant, "--processes", str(given.processes)]
    arguments += [word for one in given.set for word in ("--set", one)]
    alone = Group(1, arguments)
    together = Group(given.processes, arguments)
    ways: dict[str, Any] = {"one": (alone, WHOLE), "several": (together, WHOLE), "limit": (alone, SHARE)}
    rounds: dict[str, list[Seconds]] = {name: [] for name in ways}
    load = os.getloadavg()[0]
    try:
        for _ in range(given.rounds):
            for name, (group, way) in ways.items():
                rounds[name].append(group.steps(way, given.steps))
    finally:
        alone.close()
        together.close()
    print("| | seconds of a step | times one process | by CPU time |\n| --- | --- | --- | --- |")
    labels = {"one": "1 process", "several": f"{given.processes} processes", "limit": "limit: the share alone"}
    for name, label in labels.items():
        passed = [one.passed / other.passed for one, other in zip(rounds["one"], rounds[name], strict=True)]
        cpu = [one.cpu / other.cpu for one, other in zip(rounds["one"], rounds[name], strict=True)]
        print(f"| {label} | {shown([one.passed for one in rounds[name]], ' s')} | {shown(passed)} | {shown(cpu)} |")
    print(f"\n{given.rounds} rounds of {given.steps} steps; {os.cpu_count()} cores, load {load:.1f} before.")


if __name__ == "__main__":
    main()
