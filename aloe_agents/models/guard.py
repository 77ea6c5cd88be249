"""Runs a command for as long as somebody holds its standard input open: ``python -m aloe_agents.models.guard COMMAND...``

1. The command leads a session of its own. When the guard's input ends, because its parent closed it or died in
   whatever way, the session is asked to stop (SIGINT), and after ``GRACE`` seconds whatever is left of it is killed.
2. When the command ends by itself, what is left of its session is killed as well, and its exit code is the guard's.
3. The kernel kills the command if the guard itself is killed.

It needs Linux's /proc, and nothing but the standard library, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

GRACE = 20.0
_SET_PARENT_DEATH_SIGNAL = 1


def session_members(session: int) -> list[int]:
    """The processes of a session, by their ids; those that ended and wait for their parent to ask do not count."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX" and int(fields[3]) == session:
                members.append(int(entry.parent.name))
    return members


def guard(command: Sequence[str]) -> int:
    """Run ``command`` until it ends or standard input does. Returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the input says when it is over
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_with_its_parent)  # noqa: PLW1509 no thread here
    held = True
    while child.poll() is None and held:
        ready, _, _ = select.select([sys.stdin], [], [], 0.2)
        held = not ready or bool(os.read(sys.stdin.fileno(), 4096))
    if child.poll() is None:
        _signal(child.pid, signal.SIGINT)
        deadline = time.monotonic() + GRACE
        while (child.poll() is None or session_members(child.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
    while session_members(child.pid):
        _signal(child.pid, signal.SIGKILL)
        child.poll()
        time.sleep(0.05)
    return child.wait()


def _signal(session: int, number: int) -> None:
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _with_its_parent() -> None:
    """In the child: signals as they are by default, and death when the guard is killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
