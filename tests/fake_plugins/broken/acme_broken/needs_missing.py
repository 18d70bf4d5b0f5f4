"""A module whose dependency is not installed."""

import surely_not_installed.deeply  # noqa: F401
