"""``aloe train``: SFT and DPO on the trees of a run (paper, section 2.2), packed so that a history is encoded once.

Under accelerate for several processes: ``accelerate launch -m aloe_agents.runners.train sft ...``.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import click

from aloe_agents.config import parse_override
from aloe_agents.errors import ConfigError
from aloe_agents.runners.training_progress import TrainingPicture
from aloe_agents.training.arguments import is_first
from aloe_agents.training.plan import Attention, Method, Packing, TrainingPlan, TrainingSummary
from aloe_agents.training.preparing import TooLong
from aloe_agents.training.rows import ArgumentError, Left
from aloe_agents.training.train import goes_on, train

POSITIVE = click.FloatRange(min=0, min_open=True)
PATH = click.Path(path_type=Path)


@contextlib.contextmanager
def naming_options() -> Iterator[None]:
    """Let an error that names an argument of the library name the command's option in its place."""
    try:
        yield
    except ArgumentError as error:
        instead = f"; use {_option(error.instead)} instead" if error.instead else ""
        raise ConfigError(f"{_option(error.argument)} {error.text}{instead}") from None


def _option(argument: str) -> str:
    return "--set" if argument == "arguments" else f"--{argument.replace('_', '-')}"


@click.command()
@click.argument("method", type=click.Choice(get_args(Method)))
@click.option("--model", required=True, type=PATH, help="A directory with a transformers model. DPO takes it as the "
              "reference too: give the one that SFT wrote.")  # fmt: skip
@click.option("--data", required=True, type=PATH, help="A run's directory, or rows from aloe export.")
@click.option("--out", required=True, type=PATH, help="Where to write the model; the same command resumes.")
@click.option("--chosen", "--label", "chosen", metavar="LABEL", default="preferred", show_default=True,
              help="Answers that SFT learns and DPO prefers.")  # fmt: skip
@click.option(
    "--rejected", metavar="LABEL", default="rejected", show_default=True, help="Answers that DPO learns to avoid."
)
@click.option("--mix", metavar="SOURCE:SHARE", help="Mix in other conversations (agent data): a file, a folder or a data "
              "set on the hub, and its share of the rows. SFT only.")  # fmt: skip
@click.option("--packing", type=click.Choice(get_args(Packing)), default="tree", show_default=True,
              help="tree encodes each history once; flat trains row by row.")  # fmt: skip
@click.option("--attention", type=click.Choice(get_args(Attention)), default="auto", show_default=True,
              help="auto: sdpa for trees, the model's default for flat rows. flex_attention needs a GPU.")  # fmt: skip
@click.option("--learning-rate", type=POSITIVE, default=1e-5, show_default=True, help="Peak rate; falls linearly to 0.")
@click.option("--batch", type=click.IntRange(1), default=48, show_default=True, help="Turns per optimizer step.")
@click.option("--epochs", type=POSITIVE, help="Default: 3 for SFT, 1 for DPO.")
@click.option("--beta", type=POSITIVE, default=0.9, show_default=True, help="DPO's beta.")
@click.option("--max-length", type=click.IntRange(2), help="Most tokens in a row (default: the model's context).")
@click.option("--too-long", type=click.Choice(get_args(TooLong)), default="shorten", show_default=True,
              help="shorten drops a row's oldest turns; an answer is never cut.")  # fmt: skip
@click.option("--lora", type=click.IntRange(1), metavar="RANK", help="Train an adapter of this rank, not all weights.")
@click.option("--chat-template", type=PATH, help="A Jinja file, for a tokenizer without a template.")
@click.option("--min-margin", type=float, help="Leave out turns where the judge's scores differ by less.")
@click.option("--judge", help="Use this judge's scores, if several judged.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any other argument of trl's SFTConfig or "
              "DPOConfig, such as warmup_steps=100.")  # fmt: skip
@naming_options()
def command(lora: int | None, overrides: Sequence[str], **given: object) -> None:
    """Train a model on a run's trees.

    \b
    aloe train sft --model ./base --data runs/first --out models/sft
    aloe train dpo --model models/sft --data runs/first --out models/dpo
    """
    arguments = dict(parse_override(text) for text in overrides)
    trained(TrainingPlan(**given, lora=lora or 0, arguments=arguments))  # type: ignore[arg-type]  # as the options say


def trained(plan: TrainingPlan) -> TrainingSummary:
    """Train with a picture on standard error, and print the summary."""
    try:
        with TrainingPicture() as picture:
            summary = train(plan, say=lambda text: click.echo(f"aloe: {text}", err=True), progress=picture)
    except KeyboardInterrupt:
        if is_first():
            click.echo(f"aloe: stopped; run the same command again, and {goes_on(plan)}", err=True)
        raise
    if is_first():
        _show(summary)
    return summary


def _show(summary: TrainingSummary) -> None:
    for name in ("rows", "conversations", "shortened", "left_out", "packing_ratio", "steps", "turns_per_step", "loss_first",
                 "loss_last", "seconds"):  # fmt: skip
        value = getattr(summary, name)
        shown = f"{value:.5g}" if isinstance(value, float) else "-" if value is None else value
        if name == "left_out":
            shown = Left(out=Counter(summary.left_out)).reasons() if summary.left_out else "-"
        click.echo(f"{name.replace('_', ' '):<16} {shown}")
    click.echo(f"{'model':<16} {summary.plan.out}")


if __name__ == "__main__":
    from aloe_agents.runners.cli import main

    sys.argv.insert(1, "train")
    main()
