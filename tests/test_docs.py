"""What README and docs tell a reader to type works: every block is run, or says why it is not.

Each page is followed from its first block to its last in an empty folder, in small: few personas, few turns. The
scripted server stands in for the servers that a page names. Commands that need a GPU's worth of time, a person, or a
model that a page does not make are checked against the command line only (``PARSED``).
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import json
import os
import re
import shutil
import threading
import tomllib
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import click
import pytest
import tomli_w

from aloe_agents.config import load_config
from aloe_agents.models.scripted.server import make_app, serve
from tests.commands import aloe
from tests.documents import Block, blocks, check_aloe, check_program, commands, inline

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
PARSED = {
    r"^serve ": "runs until it is stopped",
    r"^train |^demo .*--train": "trains a model (tests/test_train.py, tests/test_closed_loop.py)",
    r"--model \S*/": "serves a model by vLLM (tests/test_vllm_serves.py)",
    r"^(compare|annotate|judge) .*evals/": "needs an evaluation that the page had made by vLLM",
    r"--on ray": "starts a cluster (tests/test_ray.py)",
    r"^personas review": "asks a person (tests/test_pool_commands.py)",
    r"^annotate agree": "needs the sheets of two people (tests/test_evaluate.py)",
    r"-h$|--help$|--version$": "",
}
OPTIONAL = {"torch", "transformers", "trl", "peft", "pandas", "matplotlib", "ray", "vllm", "sentence_transformers"}
ROLES = ("role_player", "induction", "preferred", "rejected", "judge")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a scripted server in a thread of its own."""
    url: list[str] = []
    ready, over, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def stay() -> None:
        async with serve(make_app()) as place:
            url.append(place)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(stay(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield url[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pages take for granted: ``personas.jsonl``, its run, and one of examples/debate.toml."""
    folder = tmp_path_factory.mktemp("supposed")
    people = [
        {"id": name, "profile": f"{name} keeps bees.", "personality": "She is blunt."}
        for name in map("person{:02d}".format, range(40))
    ]
    (folder / "personas.jsonl").write_text("".join(json.dumps(person) + "\n" for person in people))
    assert aloe("simulate --personas personas.jsonl --turns 2 --out run --plain", folder).returncode == 0
    debate = f"simulate {ROOT / 'examples/debate.toml'} --limit 3 --turns 2 --out debate --plain"
    assert aloe(debate, folder).returncode == 0
    return folder


def stood_in(text: str, url: str) -> str:
    """``text`` with the scripted server in place of the servers that it names."""
    text = re.sub(r"https?://[\w.:-]+/v1", url, text)
    text = re.sub(r'^( *model *= *)"[^"]*"', r'\1"scripted"', text, flags=re.MULTILINE)
    return re.sub(r'((?:HttpModel|OpenAIModel)\(\s*"[^"]*",\s*)"[^"]*"', r'\1"scripted"', text)


def in_small(words: list[str]) -> str:
    """A command as it is run here: few personas, two turns."""
    line = " ".join(f"'{word}'" if re.search(r"[^\w./:=,-]", word) else word for word in words)
    if re.match(r"simulate|evaluate|personas sample", line):
        line = re.sub(r"--count \d+", "--count 3", line)
    if line.startswith("evaluate") and "--count" not in line:
        line += " --count 2"
    if re.match(r"simulate|evaluate", line):
        line = re.sub(r" --turns \d+", "", line) + " --turns 2"
    if re.match(r"personas (grow|import)", line):
        line += " --embedder lexical" * ("--embedder" not in line)
    return line


class Reader:
    """Follows one page in one folder."""

    def __init__(self, place: Path, url: str) -> None:
        self.place, self.url = place, url
        self.names: dict[str, Any] = {"__name__": "a page of the docs"}

    def follow(self, block: Block) -> None:
        """Run a block. Raises whatever shows that it does not work."""
        if block.language in ("sh", "bash", "console", "shell"):
            for words in commands(block.text):
                self._type(words)
        elif block.language == "toml":
            self._keep(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "jsonl":
            for line in block.text.splitlines():
                json.loads(line)
        elif block.language in ("python", "py"):
            self._run(block)

    def _type(self, words: list[str]) -> None:
        if words[0] != "aloe":
            return check_program(words, ROOT, EXTRAS)
        check_aloe(words[1:])
        line = " ".join(words[1:])
        if "..." in words or any(re.search(pattern, line) for pattern in PARSED):
            return None
        done = aloe(in_small(words[1:]), self.place, {"BIG_KEY": "k", "OPENAI_API_KEY": "k"})
        assert done.returncode == 0, f"aloe {line}: {done.stderr or done.stdout}"
        return None

    def _keep(self, text: str) -> None:
        """A configuration: written down where its first line names a file; else loaded as a part of one."""
        given = tomllib.loads(text)
        if name := re.match(r"# *([\w/]+\.toml)\b", text):
            (self.place / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (self.place / name[1]).write_text(stood_in(text, self.url))
            load_config(self.place / name[1], {})
            return
        whole: dict[str, Any] = {
            "endpoints": {"big": {"base_url": self.url, "model": "scripted"}},
            "roles": {role: {"endpoint": "big"} for role in ROLES},
        }
        for section, entries in given.items():
            for key, value in entries.items():
                kept = whole.setdefault(section, {}).get(key)
                whole[section][key] = {**kept, **value} if isinstance(kept, dict) else value
        part = self.place / "part.toml"
        part.write_text(tomli_w.dumps(whole))
        load_config(part, {})
        part.unlink()

    def _run(self, block: Block) -> None:
        """Python, as in a notebook: names stay for the next block, and ``await`` may stand at the top."""
        text = "\n" * block.line + stood_in(block.text, self.url)
        code = compile(text, f"<line {block.line}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        try:
            with chdir(self.place), redirect_stdout(io.StringIO()):
                if inspect.iscoroutine(left := eval(code, self.names)):
                    asyncio.run(left)
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] not in OPTIONAL:
                raise


def supposed(page: str, finished: Path, place: Path) -> None:
    """Put into ``place`` the personas and runs that a page speaks of and does not make."""
    made = set(re.findall(r"""\bout(?: +|=["'])([\w./-]+)""", page))
    if "personas.jsonl" not in made:
        shutil.copy(finished / "personas.jsonl", place)
    for run in sorted(set(re.findall(r"\bruns/\w+", page)) - made):
        shutil.copytree(finished / ("debate" if run == "runs/debate" else "run"), place / run)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_may_be_followed_from_its_first_block_to_its_last(
    path: Path, server: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = path.read_text()
    supposed(page, finished, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(os.environ, "BIG_KEY", "k")
    reader, faults = Reader(tmp_path, server), []
    for block in blocks(page):
        if block.reason is None:
            try:
                reader.follow(block)
            except (Exception, SystemExit) as fault:  # noqa: BLE001 all that is wrong with a page at once
                words = fault.format_message() if isinstance(fault, click.ClickException) else str(fault)
                faults.append(f"{path.name}:{block.line}: {type(fault).__name__}: {words}")
        else:
            assert len(block.reason.split()) > 1, f"{path.name}:{block.line} does not say why it is not run"
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_a_page_names_in_passing_exist(path: Path) -> None:
    faults = []
    for line, command in inline(path.read_text()):
        try:
            check_aloe([*command.split()[1:], "..."])
        except click.ClickException as fault:
            faults.append(f"{path.name}:{line}: {command}: {fault.format_message()}")
    assert not faults, "\n".join(faults)


def test_a_page_that_is_wrong_is_found_out() -> None:
    page = """Say `aloe simulat x`.
<!-- not run: needs a model -->
```sh
aloe simulate --out x
```

- In a list:
  ```python
  print(1)
  ```
"""
    first, second = blocks(page)
    assert (first.language, first.line, first.reason) == ("sh", 3, "needs a model")
    assert (second.language, second.line, second.reason, second.text) == ("python", 8, None, "print(1)\n")
    assert inline(page) == [(1, "aloe simulat x")]
    (words,) = commands("aloe simulate --out x \\\n   --turns many  # as you like\n")
    assert words == ["aloe", "simulate", "--out", "x", "--turns", "many"]
    for wrong in (
        "simulat x",
        "simulate --out x --turns many",
        "simulate --nonsense",
        "simulate",
        "personas gro profiles",
    ):
        with pytest.raises(click.ClickException):
            check_aloe(wrong.split())
    for right in ("simulate ...", "COMMAND --help", "simulate --out x", "--version", "personas grow profiles --out x"):
        check_aloe(right.split())
    with pytest.raises(AssertionError, match="no extra trian"):
        check_program(["pip", "install", "aloe-agents[trian]"], ROOT, EXTRAS)
