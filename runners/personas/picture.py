"""What ``aloe personas grow`` shows: a few live lines, or one line for each round, and a summary at the end."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aloe_agents.pools.growth import State
from aloe_agents.runs.console import Terminal
from aloe_agents.text import one_line

ENDS = {
    "target": "the pool has its target size",
    "bottleneck": "a bottleneck: hardly anything that is proposed is new",
    "budget": "the budget is spent",
    "failures": "the generator failed in every one of the last rounds",
}


class Picture:
    """The picture of one growth. ``begin`` is called once with the growth's state, which changes as it goes on."""

    def __init__(self, console: Terminal, of: str, target: int, window: int, *, plain: bool = False) -> None:
        self.console, self.of, self.target, self.window = console, of, target, window
        self.price = (0.0, 0.0)
        """Money per million prompt tokens and per million completion tokens."""
        self.state: State | None = None
        self._screen = Terminal(force_terminal=False, quiet=console.quiet) if plain else console

    def begin(self, state: State) -> None:
        """Show this state from now on."""
        self.state = state

    async def follow(self, over: asyncio.Event) -> None:
        """Show the state until ``over`` is set."""
        if self._screen.is_terminal:
            with Live(console=self._screen, auto_refresh=False, transient=True) as live:
                while not over.is_set():
                    if self.state:
                        live.update(self._picture(self.state), refresh=True)
                    await _waited(over, 0.25)
            return
        shown = 0
        while True:
            done = over.is_set()
            shown += self._print_rounds(shown)
            if done:
                return
            await _waited(over, 1.0)

    def _print_rounds(self, start: int) -> int:
        rounds = self.state.rounds[start:] if self.state else []
        for taken in rounds:
            why = f"  failed: {taken.reason}" if taken.status == "failed" else ""
            line = f"round {taken.number}: {taken.accepted} of {taken.proposed} new{why}"
            self._screen.print(line, soft_wrap=True, highlight=False)
        return len(rounds)

    def _picture(self, state: State) -> Table:
        width = self._screen.width
        table = Table.grid(padding=(0, 1), expand=True)
        head = Table.grid(padding=(0, 2))
        share = state.share(self.window)
        head.add_row(
            Text(f"{len(state.items)} of {self.target} {self.of}", style="bold"),
            ProgressBar(total=self.target, completed=len(state.items), width=max(10, min(40, width - 60))),
            Text(f"round {len(state.rounds)}, {state.opened - len(state.rounds)} under way"),
        )
        table.add_row(head)
        new = "" if share is None else f"{share:.0%} of the last proposals new   "
        table.add_row(Text(f"{new}{self._used(state)}", style="dim"))
        for item in state.items[-3:]:
            table.add_row(Text(f"+ {one_line(item.text, max(20, width - 4))}", style="green", no_wrap=True))
        for drop in state.drops[-2:]:
            line = f"- {drop.reason}: {one_line(drop.text, max(20, width - 30))}"
            table.add_row(Text(line, style="yellow", no_wrap=True))
        return table

    def summary(self, out: Path) -> Text:
        """How growth ended, and what it took."""
        state = self.state or State([])
        failed = sum(taken.status == "failed" for taken in state.rounds)
        proposed = sum(taken.proposed for taken in state.rounds)
        dropped = ", ".join(f"{count} {reason}" for reason, count in state.dropped().most_common()) or "none"
        return Text(
            f"{out}: {len(state.items)} {self.of}\n"
            f"ended      {ENDS.get(state.ended, 'interrupted')}{self._last(state)}\n"
            f"rounds     {len(state.rounds)}, {failed} failed; {proposed} proposed\n"
            f"dropped    {dropped}\n"
            f"used       {self._used(state)}"
        )

    def _last(self, state: State) -> str:
        if state.ended != "bottleneck":
            return ""
        last = [taken for taken in state.rounds if taken.status == "completed"][-self.window :]
        accepted, proposed = sum(taken.accepted for taken in last), sum(taken.proposed for taken in last)
        return f" ({accepted} of {proposed} in the last {len(last)} rounds)"

    def _used(self, state: State) -> str:
        spent, cost = state.spent, state.spent.cost(self.price)
        used = f"{spent.calls} calls, {spent.prompt_tokens + spent.completion_tokens:,} tokens"
        return f"{used}, cost {cost:.2f}" if cost else used


async def _waited(over: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)
