"""The checks as pytest fixtures: `pytest_plugins = ["dualproc.testing.fixtures"]` in a conftest.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dualproc import testing

Check = Callable[..., None]


@pytest.fixture
def check_generator() -> Check:
    """`dualproc.testing.check_generator`."""
    return testing.check_generator


@pytest.fixture
def check_judge() -> Check:
    """`dualproc.testing.check_judge`."""
    return testing.check_judge


@pytest.fixture
def check_reward() -> Check:
    """`dualproc.testing.check_reward`."""
    return testing.check_reward


@pytest.fixture
def check_visual_prompt() -> Check:
    """`dualproc.testing.check_visual_prompt`."""
    return testing.check_visual_prompt


@pytest.fixture
def check_anchor() -> Check:
    """`dualproc.testing.check_anchor`."""
    return testing.check_anchor


@pytest.fixture
def check_scorer() -> Check:
    """`dualproc.testing.check_scorer`."""
    return testing.check_scorer


@pytest.fixture
def check_plugin() -> Check:
    """`dualproc.testing.check_plugin`."""
    return testing.check_plugin
