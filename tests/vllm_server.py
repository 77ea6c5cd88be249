"""A vLLM server on the CPU, for as long as a ``with`` block lasts.

1. Tests call ``require_vllm()`` first: a machine without vLLM skips them, unless ALOE_REQUIRE_VLLM says it must not.
2. The module is started, not the command: the CPU build's ``vllm`` asks for the metadata of a distribution that it
   is not, and fails.
3. Chunked prefill is off: together with a ``seed`` in a request it ends the CPU engine.
4. The server leads a session of its own, and when the block ends no process of that session is left.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx
import pytest

START_SECONDS = 240.0
STOP_SECONDS = 20.0
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


def require_vllm() -> None:
    """Skip the calling test where vLLM is not installed, or fail it if ALOE_REQUIRE_VLLM is set (and not empty)."""
    if find_spec("vllm") is None:
        missing = "vLLM is not installed (CONTRIBUTING.md says how to install its CPU build)"
        if os.environ.get("ALOE_REQUIRE_VLLM"):
            pytest.fail(f"{missing}, and ALOE_REQUIRE_VLLM is set")
        pytest.skip(missing)


@contextmanager
def vllm_server(
    model_dir: Path, name: str, log: Path, *, max_model_len: int = 2048, flags: Sequence[str] = ()
) -> Iterator[str]:
    """Serve ``model_dir`` as ``name`` and yield the base URL, ending in /v1; what the server prints goes to ``log``.
    ``flags`` are added to the command.
    """
    port = _free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model_dir), "--served-model-name", name]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", str(max_model_len)]
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192", "--max-num-seqs", "64", *flags]
    with TemporaryDirectory(prefix="vllm-") as scratch, log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | SETTINGS | {"TMPDIR": scratch},  # its sockets, which it leaves there
            start_new_session=True,
        )
        try:
            _wait_until_healthy(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _end(server)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline:
            if server.poll() is not None:
                raise RuntimeError(f"vLLM ended with code {server.returncode} before it served:\n{_last_lines(log)}")
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.25)
    raise RuntimeError(f"vLLM did not serve within {START_SECONDS:.0f} seconds:\n{_last_lines(log)}")


def _last_lines(log: Path, count: int = 40) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the server's processes to stop, as Ctrl-C in a terminal would; then kill whatever is left of its session."""
    try:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGINT)
        _wait_until_gone(server)
    finally:
        for pid in session_members(server.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if remaining := _wait_until_gone(server):
            raise RuntimeError(f"processes of the vLLM server do not end: {remaining}")


def _wait_until_gone(server: subprocess.Popen[bytes]) -> list[int]:
    """The members of the server's session that are left after STOP_SECONDS: soon none, if all goes well."""
    deadline = time.monotonic() + STOP_SECONDS
    while (server.poll() is None or session_members(server.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return session_members(server.pid)


class Process(NamedTuple):
    """A line of Linux's process table."""

    state: str
    parent: int
    group: int
    session: int


def processes() -> dict[int, Process]:
    """Every process that runs, by its id; those that ended and wait for their parent to ask (zombies) do not."""
    table = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if fields[0] not in "ZX":
            table[int(entry.parent.name)] = Process(fields[0], int(fields[1]), int(fields[2]), int(fields[3]))
    return table


def session_members(session: int) -> list[int]:
    """The processes of a session, by their ids."""
    return [pid for pid, process in processes().items() if process.session == session]
