"""Local models behind vLLM on the CPU: evaluated through the whole command, and no process is left, whatever happens."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aloe_agents.errors import ConfigError
from aloe_agents.models.guard import session_members
from aloe_agents.models.serving import local_model, on_gpu, served
from aloe_agents.pools.items import read_pool
from aloe_agents.tree import read_trees
from tests.commands import ALOE, ENVIRONMENT, aloe, one_line
from tests.test_personas import OWN
from tests.tiny_models import FAMILIES, make_tiny
from tests.vllm_server import require_vllm, vllm_processes

SMALL = "--count 3 --turns 3 --plain --set roles.candidate.sampling.max_tokens=24 --vllm '--max-model-len 2048'"


def gone(seconds: float = 60.0) -> bool:
    """Whether no vLLM process is left, after so many seconds at the most."""
    deadline = time.monotonic() + seconds
    while vllm_processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not vllm_processes()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a tiny model of each family."""
    require_vllm()
    place = tmp_path_factory.mktemp("models")
    corpus = read_pool(OWN / "profiles.txt")[0]
    for family in FAMILIES:
        make_tiny(place / family, family, corpus)
    yield place


def run(command: str, at: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        f"{' '.join(ALOE)} {command}",
        shell=True,
        check=False,
        cwd=at,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=400,
    )


STAND_IN = """
import http.server, os, sys
print("executor in the engine's process:", os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0", flush=True)
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""


@pytest.mark.skipif(on_gpu(), reason="on a GPU all is as vLLM has it")
def test_models_load_side_by_side_and_small_ones_without_a_process_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for vLLM tells what it was told."""
    package = tmp_path / "packages" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    found = {}
    for name, size in (("small", 1 << 20), ("large", 1 << 30)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        with (tmp_path / name / "model.safetensors").open("wb") as file:
            file.truncate(size)  # sparse
        found[name] = local_model(tmp_path / name)
    with served(found["small"], tmp_path / "a.log") as one, served(found["large"], tmp_path / "b.log") as other:
        urls = one(), other()
        assert urls[0] != urls[1] and all(httpx.get(f"{url}/models", trust_env=False).is_success for url in urls)
    told = [(tmp_path / log).read_text().partition("\n")[0].rpartition(" ")[2] for log in ("a.log", "b.log")]
    assert told == ["True", "False"]


def evaluated(model: Path, base: Path | None, at: Path) -> None:
    """Evaluate the model in a directory: all is answered, nothing is left running, and what is over is not done again."""
    (at / "system.md").write_text("## system\nYou are a friend.\n")
    command = f"evaluate --model {model} --system system.md --out ev {SMALL}"
    done = run(command, at)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads((at / "ev/results.json").read_text())
    assert found["accounting"]["completed"] == 3 and found["judges"]["judge"]["missing"] == 0
    assert found["model"]["directory"] == str(model) and found["model"]["name"] == model.name
    assert found["model"]["base"] == (str(base) if base else None)
    trees = list(read_trees(at / "ev/trees.jsonl"))
    assert all(turn.answers["candidate"].text for tree in trees for turn in tree.turns)
    assert (at / "ev/vllm.log").stat().st_size > 1000 and gone(5)
    again = run(command, at)
    assert again.returncode == 0 and "vLLM loads" not in again.stderr, "what is over is not served again"


@pytest.mark.vllm
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "family",
    ["mistral", *(pytest.param(name, marks=pytest.mark.families) for name in ("qwen2", "llama", "olmo"))],
)
def test_a_directory_is_served_evaluated_and_let_go(models: Path, tmp_path: Path, family: str) -> None:
    evaluated(models / family, None, tmp_path)


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_a_model_that_cannot_be_served_is_told_with_the_last_lines_of_its_log(models: Path, tmp_path: Path) -> None:
    done = run(f"evaluate --model {models / 'qwen2'} --out ev --plain --vllm '--max-model-len 99999999'", tmp_path)
    assert done.returncode == 1 and "Traceback (most recent call last):\n  File" not in done.stderr.splitlines()[-1]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("aloe: vLLM could not serve") and "max_model_len" in last and "ev/vllm.log" in last
    assert len(done.stderr.splitlines()) > 5 and gone(5)


@pytest.mark.vllm
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_when_the_command_is_interrupted_or_killed(
    models: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = [*ALOE, "evaluate", "--model", str(models / "qwen2"), "--out", "ev", "--plain"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not vllm_processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert vllm_processes()
    process.send_signal(number)
    assert process.wait(60) == (130 if number is signal.SIGINT else -signal.SIGKILL)
    assert gone(), "the guard ends the server, whoever ended the command"


@pytest.mark.vllm
@pytest.mark.families
@pytest.mark.timeout(600)
def test_an_adapter_that_was_trained_is_served_and_answers(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    pools = f"--profiles {OWN}/profiles.txt --personalities {OWN}/personalities.txt"
    assert run(f"simulate {pools} --count 4 --turns 2 --out run --plain", tmp_path).returncode == 0
    command = f"train sft --model {models / 'qwen2'} --data run --out lora --lora 4 --batch 4 --epochs 1"
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    evaluated(tmp_path / "lora", models / "qwen2", tmp_path)


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_serve_says_where_and_stops_when_asked(models: Path, tmp_path: Path) -> None:
    command = [*ALOE, "serve", str(models / "llama"), "--port", "0", "--max-model-len", "1024"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        name, url = re.fullmatch(r"(llama-\w{8}) at (http://127\.0\.0\.1:\d+/v1) \(Ctrl-C stops it\)\n", said).groups()  # type: ignore[union-attr]
        assert [model["id"] for model in httpx.get(f"{url}/models", trust_env=False).json()["data"]] == [name]
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    assert gone()


# --- without vLLM ----------------------------------------------------------------------------------------------------


def adapter(path: Path, **fields: object) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps(fields))
    return path


def test_directories_that_hold_no_model_are_named(tmp_path: Path) -> None:
    (bare := tmp_path / "bare").mkdir()
    (bare / "config.json").write_text("{}")
    (bare / "training_args.bin").write_bytes(b"x")
    (broken := tmp_path / "broken").mkdir()
    (broken / "config.json").write_text("{")
    for path, said in (
        (tmp_path, "neither a config.json"),
        (bare, "no weights"),
        (broken, "cannot read"),
        (adapter(tmp_path / "a", r=8), "does not name a base model and a rank"),
        (
            adapter(tmp_path / "b", r=8, base_model_name_or_path="org/model"),
            "'org/model', which is not a directory here",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            local_model(path)


def test_a_model_is_called_by_its_directory_and_contents(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 100)
    one, two = (local_model(tmp_path / name).name for name in ("one", "two"))
    assert one.startswith("one-") and one.split("-")[1] == two.split("-")[1]
    (tmp_path / "two/model.safetensors").write_bytes(b"x" * 99 + b"y")
    assert local_model(tmp_path / "two").name != two
    adapter(tmp_path / "lora", r=8, base_model_name_or_path="../one")
    assert local_model(tmp_path / "lora").base == (tmp_path / "one").resolve()


def test_without_vllm_it_is_one_line_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    (tmp_path / "m/model.safetensors").write_bytes(b"x")
    block = "import importlib.util\nfind = importlib.util.find_spec\nimportlib.util.find_spec = lambda name, *a: None if name == 'vllm' else find(name, *a)\n"
    (tmp_path / "sitecustomize.py").write_text(block)
    done = aloe("evaluate --model m --out ev --plain", tmp_path, {"PYTHONPATH": f"{tmp_path}:{OWN.parents[1]}"})
    assert "pip install 'aloe-agents[serve]'" in one_line(done)
    assert done.returncode == 2


CHILD = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # one that its parent forgets
print(os.getpid(), flush=True)
{then}
"""


def guarded(then: str) -> tuple[subprocess.Popen[str], int]:
    """A guard over a command that starts a child, and the command's session."""
    command = [sys.executable, "-m", "aloe_agents.models.guard", sys.executable, "-c", CHILD.format(then=then)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert guard.stdout is not None
    return guard, int(guard.stdout.readline())


def test_a_guard_ends_all_of_a_session_when_its_input_ends() -> None:
    guard, session = guarded("time.sleep(600)")
    deadline = time.monotonic() + 10
    while len(session_members(session)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(session_members(session)) == 2
    guard.communicate(timeout=60)
    assert session_members(session) == []


def test_a_guard_passes_the_exit_code_on_and_leaves_no_child() -> None:
    guard, session = guarded("sys.exit(7)")
    assert guard.wait(60) == 7 and session_members(session) == []
    guard.communicate()


def test_a_guard_that_is_killed_takes_its_command_along() -> None:
    guard, session = guarded("time.sleep(600)")
    guard.kill()
    guard.wait(10)
    deadline = time.monotonic() + 10
    while session in session_members(session) and time.monotonic() < deadline:
        time.sleep(0.01)
    members = session_members(session)
    for pid in members:  # the forgotten child; vLLM's look after their parent themselves
        os.kill(pid, signal.SIGKILL)
    guard.communicate()
    assert session not in members


def test_a_directory_without_a_config_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert "holds no model" in one_line(aloe("evaluate --model m --out ev", tmp_path))
    assert not (tmp_path / "ev").exists()
