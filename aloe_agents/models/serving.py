"""Local models behind vLLM's OpenAI-compatible server, for as long as a ``with`` block lasts.

1. A directory holds a transformers model (``config.json``), or a LoRA adapter (``adapter_config.json``), which is served
   with the base model that it names.
2. The module is started, not the ``vllm`` command: builds for the CPU lack the metadata that the command asks for.
3. The server runs under :mod:`aloe_agents.models.guard`: none of its processes outlives the block, or this process,
   however it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.text import one_line

if TYPE_CHECKING:
    import httpx

PATIENCE = 1800.0
"""Seconds until a model must answer: large ones take minutes to load."""
STOP = 60.0
"""Seconds that a server is given to end."""
LOOK = 0.25
"""Seconds between two looks at a server that loads."""
LAST_LINES = 15
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1"}
_CPU = {"VLLM_CPU_KVCACHE_SPACE": "2"}  # GiB; left alone vLLM wants nearly all memory
FETCH = "to get a model from the Hugging Face Hub, run: hf download NAME --local-dir DIR"
_SMALL = 256 << 20
_SMALL_CPU = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""For weights of up to ``_SMALL`` bytes: no process for the executor alone. It is there to bind threads to cores, from
which so small a model gains nothing, and it takes a third of the start to import vLLM once more."""
_WITHOUT_GPU = (
    # eager, for there is nothing to compile for; whole prompts, since a request's seed and chunks end the CPU's engine
    "--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "16384", "--max-num-seqs", "64",
)  # fmt: skip
_ERROR = re.compile(r"\b[A-Z]\w*(?:Error|Exception): .+|\berror: .+")
_WEIGHTS = (".safetensors", ".bin", ".pt")
_OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler)\.(bin|pt)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model's directory, looked at."""

    path: Path
    name: str
    """What it is served as: the directory's name with a few digits of its contents' digest, so that another model of
    that name never gets credit for its answers."""
    base: Path | None = None
    """An adapter's base model."""
    rank: int = 0
    """An adapter's rank."""


def local_model(path: Path) -> LocalModel:
    """The model in the directory ``path``. Raises ConfigError where there is none that can be served."""
    path = path.resolve()
    if (path / "adapter_config.json").is_file():
        return _adapter(path)
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"{path} holds no model: there is neither a config.json (transformers) nor an adapter_config.json (LoRA)"
            + ("" if path.is_dir() else f"; {FETCH}")
        )
    _read(path / "config.json")
    if not holds_weights(path):
        raise ConfigError(f"{path} holds a config.json but no weights ({', '.join('*' + end for end in _WEIGHTS)})")
    return LocalModel(path=path, name=_named(path))


def _adapter(path: Path) -> LocalModel:
    adapter = _read(path / "adapter_config.json")
    base, rank = adapter.get("base_model_name_or_path"), adapter.get("r")
    if not isinstance(base, str) or not isinstance(rank, int):
        raise ConfigError(f"{path}/adapter_config.json does not name a base model and a rank")
    where = next((place for place in (path / base, Path(base)) if (place / "config.json").is_file()), None)
    if where is None:
        raise ConfigError(f"the adapter {path} needs the base model {base!r}, which is not a directory here")
    return LocalModel(path=path, name=_named(path), base=where.resolve(), rank=rank)


@contextlib.contextmanager
def served(
    model: LocalModel,
    log: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    options: Sequence[str] = (),
    key: str | None = None,
    patience: float = PATIENCE,
    waiting: Callable[[], bool] = lambda: True,
) -> Iterator[Callable[[], str]]:
    """Serve ``model`` and yield, at once, a function that waits for its base URL, which ends in ``/v1``. So several models
    load side by side.

    Port 0 takes a free one. The server's output goes to ``log``; ``options`` are added to its command line; clients need
    ``key``. While the model loads, ``waiting`` is asked whether anybody still wants it. Raises ConfigError where vLLM is
    missing or the port is taken. The function raises Fatal, with an error from the log, where the model does not come up
    within ``patience`` seconds or the server has ended.
    """
    port = _free_port(host, port)
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"serving {model.path} needs vLLM; install it with: pip install 'aloe-agents[serve]' (without a GPU, see "
            "CONTRIBUTING.md)"
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aloe-serving-") as scratch, log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "aloe_agents.models.guard", *_command(model, host, port, options)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **_environment(model),
                **os.environ,
                "TMPDIR": scratch,
                "PYTHONUNBUFFERED": "1",
                **({"VLLM_API_KEY": key} if key else {}),
            },
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        try:
            yield lambda: _when_up(server, model, log, f"http://{_in_url(host)}:{port}", patience, waiting)
        finally:
            assert server.stdin is not None
            with contextlib.suppress(OSError):
                server.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(STOP)


def _when_up(
    server: subprocess.Popen[bytes],
    model: LocalModel,
    log: Path,
    url: str,
    patience: float,
    waiting: Callable[[], bool],
) -> str:
    """Wait for the server. Returns the base URL, also where nobody is ``waiting`` any more."""
    import httpx

    deadline = time.monotonic() + patience
    with httpx.Client(trust_env=False, timeout=5) as client:
        while waiting():
            if server.poll() is not None:
                raise Fatal(f"vLLM could not serve {model.path}: {_why(log)}; its whole log is {log}")
            if _healthy(client, f"{url}/health"):
                break
            if time.monotonic() > deadline:
                raise Fatal(f"vLLM did not serve {model.path} within {patience:.0f} s; its log is {log}")
            time.sleep(LOOK)
    return f"{url}/v1"


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """The last ``count`` lines of a log that are not blank; none where there is no log."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def _command(model: LocalModel, host: str, port: int, options: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", host, "--port", str(port)]
    if model.base is None:
        command += ["--model", str(model.path), "--served-model-name", model.name]
    else:
        command += ["--model", str(model.base), "--enable-lora", "--lora-modules", f"{model.name}={model.path}"]
        command += ["--max-lora-rank", str(max(8, 1 << (model.rank - 1).bit_length()))]
    return [*command, *(() if on_gpu() else _WITHOUT_GPU), *options]


def _environment(model: LocalModel) -> dict[str, str]:
    """The server's environment, which the user's own goes before."""
    if on_gpu():
        return _ENVIRONMENT
    weights = sum(file.stat().st_size for file in _weights(model.base or model.path))
    return {**_ENVIRONMENT, **_CPU, **(_SMALL_CPU if weights <= _SMALL else {})}


def on_gpu() -> bool:
    """Whether vLLM has a GPU here. One model takes most of its memory, however small the model."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))


def _healthy(client: httpx.Client, url: str) -> bool:
    import httpx

    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False


def _why(log: Path) -> str:
    """The first error in a failed server's log; later ones follow from it."""
    lines = last_lines(log, 100_000)
    for n, line in enumerate(lines):
        if "WARNING" not in line and (found := _ERROR.search(line)):
            return one_line(
                " ".join([found[0], *lines[n + 1 : n + 3]]), 400
            )  # some say what is wrong in the lines below
    return one_line((lines[-1:] or ["it printed nothing"])[0], 400)


def _free_port(host: str, wanted: int) -> int:
    try:
        with socket.create_server(
            (host, wanted), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ) as listener:
            port: int = listener.getsockname()[1]
            return port
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{wanted}: {error.strerror or error}") from None


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else {"0.0.0.0": "127.0.0.1"}.get(host, host)


def _read(file: Path) -> dict[str, object]:
    try:
        value = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file} does not hold a JSON object")
    return value


def holds_weights(path: Path) -> bool:
    """Whether the directory ``path`` holds weights of a model or an adapter, beyond what a trainer leaves beside them."""
    return any(_weights(path))


def _weights(path: Path) -> Iterator[Path]:
    return (file for file in path.iterdir() if file.suffix in _WEIGHTS and not _OF_TRAINING.fullmatch(file.name))


def _named(path: Path) -> str:
    """The directory's name with a digest of its files: each one's size, its first MiB and its last."""
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
    return f"{path.name}-{digest.hexdigest()[:8]}"
