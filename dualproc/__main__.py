"""The command line: `dp`, or `python -m dualproc` where `dp` is not on the path."""

import os
import sys


def main() -> None:
    """Run the command line; Ctrl+C while it is imported ends it like a later one."""
    _open_closed_streams()
    # Before torch is imported: threads that wait soon leave their core to other processes. By default they spin on, and
    # beside one busy process, a training step on two cores takes four times as long instead of twice.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        from dualproc.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


def _open_closed_streams() -> None:
    """Open standard streams that the caller closed (`>&-`), as the null device.

    The next file that is opened would get the number of a closed stream, and what a library prints would be written
    into that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (open until the process ends)


if __name__ == "__main__":
    main()
