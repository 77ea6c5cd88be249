"""What a page in Markdown says in code: its blocks and its commands, with the lines they stand on.

A block is left out only where the line before it says why: ``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from aloe_agents.runners.cli import Commands
from aloe_agents.runners.cli import aloe as group

_BLOCK = re.compile(
    r"(?P<marker>^[ ]*<!-- not run: (?P<reason>[^\n]*?) *-->\n\s*)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^[ ]*```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`(aloe [^`]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    line: int
    """Of its opening fence, from 1."""
    language: str
    text: str
    reason: str | None
    """Why it is not run; None: it is."""


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page that name their language, in order."""
    found = []
    for match in _BLOCK.finditer(page):
        indent = match["indent"]
        text = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
        line = page.count("\n", 0, match.start("language")) + 1
        found.append(Block(line, match["language"], text, match["reason"]))
    return found


def inline(page: str) -> list[tuple[int, str]]:
    """The commands that a page names within its sentences, with their lines."""
    prose = _BLOCK.sub(lambda match: "\n" * match[0].count("\n"), page)
    return [(prose.count("\n", 0, m.start()) + 1, " ".join(m[1].split())) for m in _INLINE.finditer(prose)]


def commands(shell: str) -> Iterator[list[str]]:
    """The commands of a shell block, one after the other: without prompts and comments, joined where a line goes on."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("&&", ";", "|", "&"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def check_aloe(words: Sequence[str]) -> None:
    """Raise click.ClickException where ``aloe WORDS`` is no command with these arguments.

    A command that is cut short (``...``), or names a placeholder for its own name (COMMAND), is checked as far as it goes.
    """
    cut = "..." in words
    given = [word for word in words if word != "..."]
    command: click.Command = group
    context: click.Context | None = None
    while isinstance(command, Commands):
        if not given or given[0].isupper():
            return
        context = click.Context(command, parent=context, info_name=command.name)
        if given[0].startswith("-"):
            given = [given[0]] if given[0] in ("-h", "--help", "--version") else given[1:]
            if given[0] in ("-h", "--help", "--version"):
                return
            continue
        _, found, given = command.resolve_command(context, given)
        assert found is not None
        command = found
    if "--help" in given:
        return
    try:
        command.make_context("aloe", given, parent=context)
    except click.MissingParameter:
        if not cut:
            raise


def check_program(words: Sequence[str], root: Path, extras: set[str]) -> None:
    """Raise AssertionError or click.ClickException where a command of another program cannot work.

    It knows what a newcomer types besides aloe: pip with the project's extras, Python with its files and modules.
    """
    for extra in re.findall(r"(?:aloe-agents|\.)\[([\w,]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= extras, f"no extra {extra}"
    if (module := next((word for word in words if word.startswith("aloe_agents.runners.")), None)) is not None:
        check_aloe([module.rpartition(".")[2].rstrip("_"), *words[words.index(module) + 1 :]])
    if words[0] in ("python", "python3"):
        for word in words[1:]:
            assert not word.endswith(".py") or (root / word).is_file(), f"{word} is not here"
    known = {
        "pip",
        "python",
        "python3",
        "git",
        "cd",
        ".",
        "source",
        "accelerate",
        "export",
        "mkdocs",
        "jupyter",
        "eval",
    }
    own = (root / words[0]).is_file() or words[0] in ("mypy", "ruff", "lint-imports")
    assert words[0] in known or own or "=" in words[0], f"what is {words[0]}?"
