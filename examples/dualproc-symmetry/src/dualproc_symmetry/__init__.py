"""Plugins for dualproc: a scorer of mirror symmetry, a vignette, a judge of brightness. An example of a package."""
