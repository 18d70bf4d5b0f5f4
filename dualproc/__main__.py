"""The command line: `dp`, or `python -m dualproc` where `dp` is not on the path."""

import sys


def main() -> None:
    """Run the command line; Ctrl+C while it is imported ends it like a later one."""
    try:
        from dualproc.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
