"""Runs fits that can be killed: loads the models once, then forks a process for every fit.

Start it with `python fit_server.py SPEC`. It prints `ready` when the models are loaded. It then reads one JSON object
per line from stdin, `{"out": folder, "die_at": n, "full_from": n, "after": seconds, "overwrite": true}`, and prints one
per line, `{"code": exit code (negative for a signal), "error": message, "events": count}`. Only `out` is required.

Events are the changes that Python makes to files in `out` (open for writing, create, rename, delete), as reported by
audit hooks. They are numbered from 1.

* `die_at`: the process is killed by SIGKILL immediately before this event.
* `full_from`: from this event on, the disk is full: every event except a deletion fails.
* `after`: the process is killed by SIGKILL after this many seconds.
* `overwrite`: replace an earlier run. Without it, the fit resumes the run.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def serve(spec: str) -> None:
    """Load the models, then run one fit per line of stdin."""
    import torch

    from dualproc import Engine, load_spec

    torch.set_num_threads(1)  # a fork copies only the current thread: no other thread may hold a lock
    with TemporaryDirectory() as folder:  # one fit, so that everything is imported before the forks
        Engine(load_spec(spec)).fit(Path(folder, "run"))
    engine = Engine(load_spec(spec))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_forked(engine, json.loads(line))), flush=True)


def _forked(engine: Any, order: Mapping[str, Any]) -> dict[str, Any]:
    """Run one fit in a forked process, and return its exit code and report."""
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _fit(engine, order, target)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(target)
    if "after" in order:
        time.sleep(order["after"])
        os.kill(child, signal.SIGKILL)
    with os.fdopen(source, encoding="utf-8") as pipe:
        report = pipe.read()
    _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), **json.loads(report or "{}")}


def _fit(engine: Any, order: Mapping[str, Any], target: int) -> int:
    """Run the fit, write its report to the file descriptor `target`, and return the exit code."""
    from dualproc.engine.fit import fit
    from dualproc.errors import DualprocError

    out, count = str(order["out"]), 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in WATCHED or not (str(arguments[0]).startswith(out) or _in_open_folder(event, arguments)):
            return
        reading = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        count += not reading
        if count == order.get("die_at") and not reading:
            os.kill(os.getpid(), signal.SIGKILL)
        if count >= order.get("full_from", count + 1) and not reading and event not in ("os.remove", "os.rmdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    if "die_at" in order or "full_from" in order:
        sys.addaudithook(watch)
    code, error = 0, ""
    try:
        fit(engine, out, resume=not order.get("overwrite"), overwrite=bool(order.get("overwrite")))
    except DualprocError as caught:
        code, error = 2, str(caught)
    os.write(target, json.dumps({"error": error, "events": count}).encode())
    return code


def _in_open_folder(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an event deletes a path relative to an open folder, as `shutil.rmtree` does."""
    return event in ("os.remove", "os.rmdir") and arguments[1] != -1


if __name__ == "__main__":
    serve(str(Path(sys.argv[1])))
