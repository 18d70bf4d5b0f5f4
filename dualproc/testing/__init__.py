"""Checks that a plugin follows its protocol, one for each kind, for the tests of plugin authors.

    from dualproc.testing import check_scorer

    def test_redness() -> None:
        check_scorer(Redness, {"target": 0.5})

A check gets the plugin's class, or its name if it is installed, and its parameters as in a spec. It builds the plugin,
uses it as the engine does, and raises one `ConformanceError` with a sentence for each violation of the protocols in
`dualproc.protocols`. It raises a PluginError if no plugin of that name can be loaded. With
`pytest_plugins = ["dualproc.testing.fixtures"]`, the checks are also pytest fixtures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._anchors import check_anchor
    from ._checks import CHECKS as CHECKS
    from ._checks import check_plugin
    from ._conform import ConformanceError
    from ._generators import check_generator
    from ._judges import check_judge
    from ._rewards import check_reward
    from ._scorers import check_scorer
    from ._visual_prompts import check_visual_prompt

__all__ = [
    "ConformanceError", "check_anchor", "check_generator", "check_judge", "check_plugin", "check_reward",
    "check_scorer", "check_visual_prompt",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use, so that loading the fixtures does not import torch."""
    import dualproc.testing._checks as checks

    return getattr(checks, name)
