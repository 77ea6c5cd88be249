"""``aloe status``: the accounting of a run; completed + failed + pending = requested."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click
import orjson

from aloe_agents.runs.records import Accounting, FailureRecord, Usage
from aloe_agents.runs.run import Run
from aloe_agents.text import inert


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(directory: Path, as_json: bool) -> None:
    """Show what was requested, what was done, what it took, and why conversations failed.

    \b
    aloe status runs/first --json
    """
    run = Run(directory)
    accounting, efficiency = run.accounting, run.efficiency
    if as_json:
        figures = None if efficiency is None else {**asdict(efficiency), "ratio": efficiency.ratio}
        click.echo(orjson.dumps({**accounting.to_json(), "efficiency": figures}, option=orjson.OPT_INDENT_2))
        return
    for name, shown in _lines(accounting):
        click.echo(f"{name:<18} {shown}")
    if efficiency is not None:
        click.echo(f"{'efficiency':<18} {efficiency}")


def _lines(accounting: Accounting) -> Iterable[tuple[str, object]]:
    yield "requested", accounting.requested
    yield "completed", accounting.completed
    yield "failed", _counts(accounting.failed)
    yield from (("", _cause(failure)) for failure in accounting.failures)
    yield "pending", accounting.pending
    yield "finished", accounting.finished
    for name in ("calls", "prompt_tokens", "completion_tokens", "cached_tokens"):
        yield name.replace("_", " "), getattr(accounting, name)
    yield "retries", _counts(accounting.retries)
    yield "uncertain", accounting.uncertain
    yield "cost", accounting.cost
    yield "roles", "; ".join(f"{role} {_tokens(usage)}" for role, usage in accounting.roles.items())
    if accounting.gaps:
        yield "gaps", f"{sum(gap.count for gap in accounting.gaps)} messages of agents that are not essential"
        yield from (("", _cause(gap)) for gap in accounting.gaps)


def _counts(counts: object) -> str:
    assert isinstance(counts, dict)
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "0"


def _cause(failure: FailureRecord) -> str:
    return inert(f"{failure}")


def _tokens(usage: Usage) -> str:
    cached = f", {usage.cached_tokens} from cache" if usage.cached_tokens else ""
    return f"{usage.calls} calls, {usage.prompt_tokens} + {usage.completion_tokens} tokens{cached}"
