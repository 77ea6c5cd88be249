"""A training as it goes: a bar in a terminal, a line now and then elsewhere; without the dictionaries that trainers print."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

EVERY = 15.0
"""Seconds between two lines."""
SHOWN = {
    "loss": "loss",
    "mean_token_accuracy": "accuracy",
    "rewards/accuracies": "preferred wins",
    "rewards/margins": "margin",
}


class Shown(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Shows steps, and the figures of the last log, on standard error."""

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.figures, self.last = "", 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.last = time.monotonic()
        if sys.stderr.isatty() and state.is_world_process_zero:
            self.bar = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self.task = self.bar.add_task("", total=state.max_steps, figures="")
            self.bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        found = [f"{name} {float(logs[key]):.3g}" for key, name in SHOWN.items() if key in (logs or {})]
        self.figures = "  ".join(found) or self.figures

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self.bar:
            self.bar.update(self.task, completed=state.global_step, figures=self.figures)
        elif time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            click.echo(f"step {state.global_step} of {state.max_steps}  {self.figures}", err=True)


@contextlib.contextmanager
def shown(trainer: Any) -> Iterator[None]:
    """Let ``trainer`` show itself in this way only, for as long as the block lasts."""
    for kind in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(kind)
    picture = Shown()
    trainer.add_callback(picture)
    try:
        yield
    finally:
        if picture.bar:
            picture.bar.stop()


def quiet() -> None:
    """No bars for what is over in seconds: tokenising, saving."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
