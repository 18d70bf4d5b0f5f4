"""Plugins for dualproc: mirror symmetry, a vignette, brightness. An example of a package of one's own."""
