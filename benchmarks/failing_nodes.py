"""Simulation: many fits on a cluster whose nodes fail, as `dp bench --ray` runs them.

    python benchmarks/failing_nodes.py [--gpus 8 64] [--checkpoint-every 25 100 0] [--return-after 30] ...

Every fit takes one GPU: loading, training steps, evaluation. Failures come at random, `--failures-per-hour` on average
in the whole cluster, and each takes one running node down with all its fits. `--detection` seconds later, these are
first in the queue again, and resume from their last checkpoints on other GPUs (loading takes its time again). The node
returns after `--return-after` minutes. `--checkpoint-every 0` writes a checkpoint after the last step only.

Prints a Markdown table. *Ideal* is the makespan without failures; the table has its multiple, mean and range over
`--seeds` simulations. *Lost* is the time of running GPUs that did not count: steps after the last checkpoint, repeated
loading, and evaluations that were cut off; as a share of all time of running GPUs. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
from collections import deque
from dataclasses import dataclass, field

LOST_NODE, DETECTED, RETURNED, DONE = range(4)


@dataclass(frozen=True)
class Setup:
    """What is simulated; times in seconds."""

    fits: int = 150
    gpus: int = 8
    per_node: int = 8
    steps: int = 1600
    step: float = 2.2
    checkpoint_every: int = 25
    loading: float = 120.0
    evaluation: float = 300.0
    failures_per_hour: float = 1.0
    return_after: float = 1800.0
    detection: float = 30.0

    @property
    def duration(self) -> float:
        """One fit without failures."""
        return self.loading + self.steps * self.step + self.evaluation

    @property
    def ideal(self) -> float:
        """The makespan without failures."""
        return -(-self.fits // self.gpus) * self.duration

    def saved(self, before: int, elapsed: float) -> int:
        """Steps in the last checkpoint, `elapsed` seconds after a start from the checkpoint of step `before`."""
        done = min(self.steps, before + max(0, int((elapsed - self.loading) / self.step)))
        if done == self.steps:
            return done
        return max(before, done // self.checkpoint_every * self.checkpoint_every if self.checkpoint_every else 0)


@dataclass
class Node:
    """A node and its running fits: when each started."""

    up: bool = True
    running: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The result of one simulation; times in seconds."""

    makespan: float
    busy: float
    """Of all GPUs, while they ran fits."""
    useful: float
    restarts: int
    most_restarts: int
    """Of one fit."""
    failures: int


def simulate(setup: Setup, seed: int) -> Outcome:
    """Run all fits to their ends."""
    rng = random.Random(seed)
    nodes = [Node() for _ in range(setup.gpus // setup.per_node)]
    queue, saved, restarts = deque(range(setup.fits)), [0] * setup.fits, [0] * setup.fits
    starts, counter, left, failures = [0] * setup.fits, itertools.count(), setup.fits, 0
    events: list[tuple[float, int, int, tuple[int, ...]]] = []
    now = busy = 0.0

    def at(when: float, kind: int, *about: int) -> None:
        heapq.heappush(events, (when, next(counter), kind, about))

    def fail_later() -> None:
        if setup.failures_per_hour:
            at(now + rng.expovariate(setup.failures_per_hour / 3600), LOST_NODE)

    fail_later()
    while left:
        for index, node in enumerate(nodes):
            while node.up and queue and len(node.running) < setup.per_node:
                fit = queue.popleft()
                node.running[fit] = now
                starts[fit] += 1
                at(now + setup.duration - saved[fit] * setup.step, DONE, index, fit, starts[fit])
        now, _, kind, about = heapq.heappop(events)
        if kind == DONE:
            index, fit, start = about
            if start == starts[fit] and fit in nodes[index].running:
                busy += now - nodes[index].running.pop(fit)
                left -= 1
        elif kind == LOST_NODE:
            fail_later()
            if up := [index for index, node in enumerate(nodes) if node.up]:
                index = rng.choice(up)
                failures += 1
                nodes[index].up = False
                for fit, started in nodes[index].running.items():
                    busy += now - started
                    saved[fit] = setup.saved(saved[fit], now - started)
                    restarts[fit] += 1
                at(now + setup.detection, DETECTED, *nodes[index].running)
                nodes[index].running.clear()
                at(now + setup.return_after, RETURNED, index)
        elif kind == DETECTED:
            queue.extendleft(reversed(about))
        else:
            nodes[about[0]].up = True
    return Outcome(now, busy, setup.fits * setup.duration, sum(restarts), max(restarts), failures)


def row(setup: Setup, seeds: int) -> str:
    """A line of the table."""
    outcomes = [simulate(setup, seed) for seed in range(seeds)]
    ratios = [one.makespan / setup.ideal for one in outcomes]
    lost = [1 - one.useful / one.busy for one in outcomes]
    cells = (
        setup.gpus,
        f"every {setup.checkpoint_every} steps" if setup.checkpoint_every else "after the last step only",
        f"{setup.ideal / 3600:.1f} h",
        f"{statistics.mean(one.makespan for one in outcomes) / 3600:.1f} h",
        f"{statistics.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{statistics.mean(lost):.1%} ({min(lost):.1%} to {max(lost):.1%})",
        f"{statistics.mean(one.failures for one in outcomes):.0f}",
        f"{statistics.mean(one.restarts for one in outcomes):.0f}",
        max(one.most_restarts for one in outcomes),
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    standard = Setup()
    parser.add_argument("--fits", type=int, default=standard.fits)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--per-node", type=int, default=standard.per_node, help="GPUs of a node")
    parser.add_argument("--steps", type=int, default=standard.steps, help="training steps of a fit")
    parser.add_argument("--step", type=float, default=standard.step, help="seconds of a training step")
    parser.add_argument("--checkpoint-every", type=int, nargs="+", default=[25, 400, 0], help="training steps")
    parser.add_argument("--loading", type=float, default=standard.loading, help="seconds")
    parser.add_argument("--evaluation", type=float, default=standard.evaluation, help="seconds")
    parser.add_argument("--failures-per-hour", type=float, default=standard.failures_per_hour, help="in the cluster")
    parser.add_argument("--return-after", type=float, default=standard.return_after / 60, help="minutes")
    parser.add_argument("--detection", type=float, default=standard.detection, help="seconds")
    parser.add_argument("--seeds", type=int, default=20, help="simulations of each row")
    given = parser.parse_args()
    headings = (
        "GPUs",
        "checkpoints",
        "ideal",
        "makespan",
        "times the ideal",
        "lost",
        "failures",
        "restarts",
        "of a fit",
    )
    print(f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}")
    for gpus in given.gpus:
        for every in given.checkpoint_every:
            setup = Setup(
                given.fits, gpus, given.per_node, given.steps, given.step, every, given.loading, given.evaluation,
                given.failures_per_hour, 60 * given.return_after, given.detection,
            )  # fmt: skip
            print(row(setup, given.seeds))


if __name__ == "__main__":
    main()
