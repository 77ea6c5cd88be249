"""``aloe personas review``: a person looks at a pool's items one by one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from aloe_agents.errors import ConfigError
from aloe_agents.pools.items import Item
from aloe_agents.pools.review import Review
from aloe_agents.text import inert

HELP = "[k]eep  [d]rop  [e]dit  [u]ndo  [s]kip  [q]uit"


@click.command()
@click.argument("pool", type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Include items that are already decided.")
def command(pool: Path, everything: bool) -> None:
    """Step through a pool and keep, drop or edit each item. Each decision is written at once, beside the pool. The next
    review starts where this one ended, and undo takes decisions back one by one.

    \b
    aloe personas review pools/profiles.jsonl
    """
    if pool.suffix.lower() not in (".jsonl", ""):
        raise ConfigError(f"{pool} is not a pool yet: aloe personas import {pool} --out {pool.with_suffix('.jsonl')}")
    review = Review(pool)
    waiting = list(review.items) if everything else review.open()
    at: int | None = 0
    while at is not None and at < len(waiting):
        _show(review, waiting[at], at, len(waiting))
        at = _acted(review, waiting, at, _asked())
    counts = [sum(d.verdict == verdict for d in review.decided.values()) for verdict in ("keep", "drop", "edit")]
    click.echo(f"{pool}: {counts[0]} kept, {counts[1]} dropped, {counts[2]} edited, {len(review.open())} not looked at")


def _acted(review: Review, waiting: Sequence[Item], at: int, key: str) -> int | None:
    """Do what ``key`` asks for with the item ``at``. Returns the place of the next item; None to quit."""
    match key:
        case "q":
            return None
        case "u":
            return _undone(review, waiting, at)
        case "k":
            review.decide(waiting[at], "keep")
        case "d":
            review.decide(waiting[at], "drop")
        case "e":
            text = " ".join((click.edit(waiting[at].text + "\n") or "").split())
            if not text:
                return at
            review.decide(waiting[at], "edit", text)
    return at + 1


def _undone(review: Review, waiting: Sequence[Item], at: int) -> int:
    if (back := review.undo()) is None:
        click.echo("  nothing to undo")
        return at
    click.echo(f"  undone: {back.id}")
    return next((n for n, item in enumerate(waiting) if item.id == back.id), at)


def _show(review: Review, item: Item, at: int, count: int) -> None:
    decided = review.decided.get(item.text)
    state = f"  ({decided.verdict})" if decided else ""
    source = f"  {inert(item.source)}" if item.source else ""
    click.echo(f"\n{at + 1} of {count}   {item.id}{source}{state}\n")
    click.echo(_wrapped(item.text))
    if decided and decided.verdict == "edit":
        click.echo(_wrapped(f"now: {decided.text}"))
    click.echo(f"\n{HELP}")


def _wrapped(text: str) -> str:
    width = min(100, shutil.get_terminal_size().columns)
    return click.wrap_text(inert(text), width=width, initial_indent="  ", subsequent_indent="  ")


def _asked() -> str:
    """The next key pressed that means something; q at the end of the input."""
    while True:
        try:
            key = (click.getchar() if sys.stdin.isatty() else sys.stdin.read(1)).lower()
        except EOFError:
            return "q"
        if key in ("", "\x03", "\x04"):
            return "q"
        if key in "kdeusq":
            return key
