"""`python -m dualproc`: the command line, where `dp` is not on the path."""

from dualproc.cli import main

main()
