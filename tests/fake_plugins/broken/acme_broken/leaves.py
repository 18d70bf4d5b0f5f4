"""A script that ends the process when it is imported."""

raise SystemExit(0)
