"""The checks as pytest fixtures: `pytest_plugins = ["dualproc.testing.fixtures"]` in a conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dualproc import testing

Check = Callable[..., None]


def _fixture(check: Check) -> Any:
    """A fixture with the name of a check of `dualproc.testing` that returns it."""

    def itself() -> Check:
        return check

    itself.__doc__ = f"`dualproc.testing.{check.__name__}`."
    return pytest.fixture(name=check.__name__)(itself)


check_generator = _fixture(testing.check_generator)
check_judge = _fixture(testing.check_judge)
check_reward = _fixture(testing.check_reward)
check_visual_prompt = _fixture(testing.check_visual_prompt)
check_anchor = _fixture(testing.check_anchor)
check_scorer = _fixture(testing.check_scorer)
check_plugin = _fixture(testing.check_plugin)
