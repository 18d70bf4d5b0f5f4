"""The checks as pytest fixtures: `pytest_plugins = ["dualproc.testing.fixtures"]` in a conftest.py."""

from __future__ import annotations

from typing import Any

import pytest

from dualproc import testing


def _fixture(name: str) -> Any:
    """A fixture that returns the check of this name."""

    def check() -> Any:
        return getattr(testing, name)

    check.__doc__ = f"`dualproc.testing.{name}`."
    return pytest.fixture(name=name)(check)


check_generator = _fixture("check_generator")
check_judge = _fixture("check_judge")
check_reward = _fixture("check_reward")
check_visual_prompt = _fixture("check_visual_prompt")
check_anchor = _fixture("check_anchor")
check_scorer = _fixture("check_scorer")
check_plugin = _fixture("check_plugin")
