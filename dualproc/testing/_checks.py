"""All checks in one place; imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dualproc.registry import require_kind

from ._anchors import check_anchor
from ._conform import ConformanceError as ConformanceError
from ._generators import check_generator
from ._judges import check_judge
from ._rewards import check_reward
from ._scorers import check_scorer
from ._visual_prompts import check_visual_prompt

CHECKS: Mapping[str, Callable[..., None]] = {
    "generators": check_generator,
    "judges": check_judge,
    "rewards": check_reward,
    "visual_prompts": check_visual_prompt,
    "anchors": check_anchor,
    "scorers": check_scorer,
}


def check_plugin(kind: str, plugin: type[Any] | str, params: Mapping[str, Any] | None = None, /, **extras: Any) -> None:
    """Run the check for a kind, one of `dualproc.protocols.KINDS`; `extras` are further arguments of that check.

    Raises ConformanceError if the plugin does not follow its protocol, and PluginError if the kind is unknown, or no
    plugin of that name can be loaded.
    """
    require_kind(kind)
    CHECKS[kind](plugin, params, **extras)
