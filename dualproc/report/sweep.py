"""The result of a sweep: which setting is best by a criterion, and a page with every setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader

from dualproc.wording import percent, plural

from .bench import BenchRow, Result, diversity_share, footer, grouped, several_seeds, table
from .html import POLICY
from .numeric import mean

CRITERIA: Mapping[str, Callable[[Result], float]] = {
    "on target": lambda result: result.on_target,
    "referee": lambda result: result.referee.after,
    "kept": lambda result: result.kept.after,
    "diversity": diversity_share,
}
"""By which the best setting can be chosen, shares of 1: the higher, the better. The judge is none of them, because
training maximises its answer."""


@dataclass(frozen=True)
class Ranked:
    """A setting and its values of the criterion, one per seed."""

    label: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return mean(self.values)

    def __str__(self) -> str:
        """`train.lr=5e-5 (79%)`, or `train.lr=5e-5 (79%, 71% to 85% over 3 seeds)`."""
        low, high, count = min(self.values), max(self.values), len(self.values)
        spread = f", {percent(low)} to {percent(high)} over {plural(count, 'seed')}" if count > 1 else ""
        return f"{self.label} ({percent(self.mean)}{spread})"


def ranking(rows: Sequence[BenchRow], by: str) -> list[Ranked]:
    """The settings from best to worst; those with a failed fit, or one without a value, are left out."""
    ranked = []
    for group in grouped(rows):
        values = tuple(math.nan if row.result is None else CRITERIA[by](row.result) for row in group)
        if all(map(math.isfinite, values)):
            first = group[0]
            name = f"{first.name}/{first.variant}" if first.variant else first.name
            ranked.append(Ranked(" ".join(filter(None, (name, first.setting))), values))
    return sorted(ranked, key=lambda one: one.mean, reverse=True)


def conclusions(rows: Sequence[BenchRow], by: str | None, *, planned: int) -> list[str]:
    """What the sweep shows by the criterion `by`: the best setting, and how certain that is. Empty without one."""
    if by is None or len(rows) < planned:
        return []
    ranked, settings = ranking(rows, by), len(grouped(rows))
    if not ranked:
        return [f"No setting is best by {by}: it was measured for none of them with every seed."]
    best, *others = ranked
    lines = [f"Best by {by}: {best}."]
    rivals = [one for one in others if max(one.values) >= min(best.values)]
    if len(best.values) == 1 and others:
        lines.append(f"Next: {others[0]}. One seed per setting does not show whether a difference is due to chance.")
    elif rivals:
        shown = "; ".join(map(str, rivals[:3])) + ("; ..." if len(rivals) > 3 else "")
        lines.append(
            f"More seeds are needed to tell it from {plural(len(rivals), 'setting')} of overlapping range: {shown}."
        )
    if missing := settings - len(ranked):
        lines.append(f"Not ranked, because a seed failed or has no value: {plural(missing, 'setting')}.")
    lines.append(
        "The setting was chosen on the held-out images, so its number is optimistic: measure it again on other "
        "prompts (`prompts.eval`) before you report it."
    )
    return lines


def render_sweep(rows: Sequence[BenchRow], *, by: str | None, planned: int, command: str) -> str:
    """The page of a sweep: the conclusions, the table, and each seed's value of the criterion."""
    headings, *lines = table(rows)
    found = conclusions(rows, by, planned=planned)
    scale = CRITERIA[by] if by else CRITERIA["on target"]
    dots = [
        (" ".join(filter(None, (group[0].variant or "", group[0].setting))) or group[0].name, [
            (100 * value, row.seed) for row in group
            if row.result is not None and math.isfinite(value := scale(row.result))
        ])
        for group in grouped(rows)
    ]  # fmt: skip
    environment = Environment(
        loader=PackageLoader("dualproc.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    values = {
        "name": ", ".join(dict.fromkeys(row.name for row in rows)) or "sweep",
        "fits": plural(len(rows), "fit"),
        "conclusions": found,
        "criterion": by or "on target",
        "dots": dots if any(values for _, values in dots) else [],
        "seeds": several_seeds(rows),
        "headings": headings,
        "lines": lines,
        "footer": footer(rows, planned=planned, command=command),
    }
    return environment.get_template("sweep.html.jinja").render(policy=POLICY, **values).strip() + "\n"
