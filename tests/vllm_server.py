"""A vLLM server on the CPU for tests, for as long as a ``with`` block lasts: ``aloe_agents.models.serving`` with a tiny model.

Tests call ``require_vllm()`` first: a machine without vLLM skips them, unless ALOE_REQUIRE_VLLM says it must not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from aloe_agents.models.serving import LocalModel, served


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
    options = ["--dtype", "float32", "--max-model-len", str(max_model_len), "--max-num-batched-tokens", "8192", *flags]
    with served(LocalModel(path=model_dir, name=name), log, options=options, patience=240.0) as url:
        yield url()


def vllm_processes() -> list[int]:
    """The processes of this machine that serve something by vLLM."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command, status = entry.read_bytes(), (entry.parent / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if status not in "ZX" and (b"vllm.entrypoints" in command or b"VLLM::" in command):
            found.append(int(entry.parent.name))
    return found
