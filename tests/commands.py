"""``aloe`` as users run it: exit codes, one line for what cannot be used, the files that it leaves.

A command runs inside the test's own process wherever nothing can tell the difference: starting an interpreter costs
more than most commands do. What needs a process (a shell, a path for imports, signals, a terminal) gets one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import io
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import aloe_agents
from aloe_agents.runners.cli import main

ALOE = (sys.executable, "-m", "aloe_agents.runners.cli")
ROOT = str(Path(aloe_agents.__file__).parent.parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT, "COLUMNS": "100", "GOOD_KEY": "g00d-s3cret", "BAD_KEY": "b4d-s3cret"}
READ_ONCE = ("PYTHONPATH", "HF_", "OMP_", "PYTHONUTF8")
"""Beginnings of the variables that an interpreter, or a module, reads when it starts."""


def aloe(
    arguments: str,
    at: Path,
    environment: Mapping[str, str] | None = None,
    before: str = "",
    *,
    process: bool = False,
) -> subprocess.CompletedProcess[str]:
    """``aloe ARGUMENTS``, typed in the folder ``at``. ``arguments`` may end in a pipe; ``before`` is typed first.

    ``process`` asks for a process of its own. Whatever needs one gets it without asking: a shell's characters, a
    variable that is read only at the start, a test in a running loop or outside the main thread.
    """
    process = process or bool(before) or bool(set("|&;<>$*`") & set(arguments))
    process = process or any(name.startswith(READ_ONCE) for name in environment or {}) or not _may_own_a_loop()
    if process:
        return subprocess.run(
            f"{before} {shlex.join(ALOE)} {arguments}",
            shell=True,
            check=False,
            cwd=at,
            env={**ENVIRONMENT, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=120,
        )
    return called(shlex.split(arguments), at, {**ENVIRONMENT, **(environment or {})})


def called(arguments: list[str], at: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """``main`` with these arguments, in this process, which is afterwards as it was before."""
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _as_new(at, environment):
        sys.argv = [str(Path(main.__code__.co_filename)), *arguments]
        with (
            open(os.devnull) as sys.stdin,  # what a test inherits holds nothing
            io.TextIOWrapper(out, encoding) as stdout,
            io.TextIOWrapper(err, encoding, errors="backslashreplace") as stderr,
        ):
            sys.stdout, sys.stderr = stdout, stderr
            try:
                main()
                code: object = 0
            except SystemExit as exit_:
                code = exit_.code
            except Exception:  # noqa: BLE001 as the interpreter would
                traceback.print_exc()
                code = 1
            stdout.flush()
            stderr.flush()
            said = [_read(file, encoding) for file in (out, err)]
    assert isinstance(code, int | None), code
    return subprocess.CompletedProcess(["aloe", *arguments], code or 0, *said)


def one_line(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one line on standard error with which a command ended that could do nothing."""
    assert done.returncode == code, done.stderr
    assert re.fullmatch(r"aloe: [^\n]+\n", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.removeprefix("aloe: ").rstrip("\n")


def held(folder: Path) -> dict[str, bytes]:
    """All files below ``folder`` but the notes that SQLite keeps beside a database."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not re.search("-(wal|shm)$", path.name))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextlib.contextmanager
def _as_new(at: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A process as a command finds it, and then as it was: folder, variables, streams, imports, signals, logging."""
    root, argv, path, modules = logging.getLogger(), sys.argv, sys.path, set(sys.modules)
    streams, variables, thresholds = (sys.stdin, sys.stdout, sys.stderr), dict(os.environ), gc.get_threshold()
    handlers, level = root.handlers, root.level
    heeded = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    importlib.invalidate_caches()
    sys.path, root.handlers = [str(at), *path], []
    added: set[str] = set()
    try:
        with contextlib.chdir(at):
            os.environ.clear()
            os.environ.update(environment)
            yield
        added = set(sys.path) - set(path)
    finally:
        os.environ.clear()
        os.environ.update(variables)
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.argv, sys.path, root.handlers = argv, path, handlers
        root.setLevel(level)
        gc.set_threshold(*thresholds)
        for number, handler in heeded.items():
            signal.signal(number, handler)
        for name in set(sys.modules) - modules:  # the next test may have another file of that name
            if any(str(getattr(sys.modules[name], "__file__", None)).startswith(f"{place}{os.sep}") for place in added):
                del sys.modules[name]


def _may_own_a_loop() -> bool:
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        return False
    return threading.current_thread() is threading.main_thread()


def _read(file: io.BufferedRandom, encoding: str) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read()), encoding, errors="replace").read()
