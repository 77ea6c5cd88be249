"""A training as it goes: a bar in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aloe_agents.training.train import TrainingStep

EVERY = 15.0
"""Seconds between two lines."""
SHOWN = {
    "loss": "loss",
    "mean_token_accuracy": "accuracy",
    "rewards/accuracies": "preferred wins",
    "rewards/margins": "margin",
}


class TrainingPicture:
    """Shows steps and their figures on standard error, for as long as its block lasts."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._figures, self._last = "", time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, now: TrainingStep) -> None:
        """Show ``now``."""
        found = [f"{name} {now.figures[key]:.3g}" for key, name in SHOWN.items() if key in now.figures]
        self._figures = "  ".join(found) or self._figures
        if sys.stderr.isatty():
            self._bar = self._bar or self._begun(now.steps)
            self._bar.update(self._bar.task_ids[0], completed=now.step, figures=self._figures)
        elif time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            click.echo(f"step {now.step} of {now.steps}  {self._figures}", err=True)

    def _begun(self, steps: int) -> Progress:
        bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"), console=Console(stderr=True), transient=True,
        )  # fmt: skip
        bar.add_task("", total=steps, figures="")
        bar.start()
        return bar
