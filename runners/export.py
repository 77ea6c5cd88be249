"""``aloe export``: a run's trees as rows for trainers, or in the form that the paper's authors publish."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing
from aloe_agents.runners.train import naming_options
from aloe_agents.runs.reading import TREES, Reading
from aloe_agents.training.authors import check_labels, to_authors
from aloe_agents.training.rows import FORMS, PAPER, ArgumentError, Filter, Form, Labels, Left, rows
from aloe_agents.training.writing import card, writer
from aloe_agents.tree import Tree, read_trees

CARD = "README.md"
ROWS = (".jsonl", ".parquet")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice([*FORMS, "aloe"]), required=True, help="Rows for trl (sft, dpo, kto), or the "
              "form that the paper's authors publish (aloe).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .jsonl or .parquet file; for rows also a "
              "directory.")  # fmt: skip
@click.option("--chosen", "--label", "chosen", metavar="LABEL", multiple=True, help="Answers to learn (default: preferred). "
              "kto takes several.")  # fmt: skip
@click.option("--rejected", metavar="LABEL", help="Answers that dpo learns to avoid (default: rejected).")
@click.option("--judge", help="Use this judge's scores for the margin, if several judged.")
@click.option("--min-margin", type=float, help="Leave out turns where the judge's scores differ by less.")
@click.option("--per-persona", type=click.IntRange(1), metavar="N", help="Keep at most N turns per persona.")
@click.option("--validation", type=click.FloatRange(0, 1, max_open=True), default=0.0, metavar="SHARE",
              help="Set aside this share of the personas.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the split and the cap.")
@naming_options()
def command(
    directory: Path,
    form: str,
    out: Path,
    chosen: tuple[str, ...],
    rejected: str | None,
    judge: str | None,
    **given: Any,
) -> None:
    """Write the trees of a run for trainers and other programs.

    \b
    aloe export runs/first --to dpo --validation 0.05 --out rows
    aloe export runs/first --to sft --label neutral --out neutral.jsonl
    aloe export runs/first --to aloe --out conversations.jsonl
    """
    if form == "aloe":
        _refuse_row_options({"chosen": chosen, "rejected": rejected, "judge": judge, **given, "seed": None})
        _authors(directory, out)
        return
    if form != "dpo" and rejected is not None:
        raise ConfigError(f"--rejected is for dpo: {form} does not use it")
    labels = Labels(chosen or PAPER.chosen, rejected or PAPER.rejected)
    _rows(directory, next(known for known in FORMS if known == form), out, judge, Filter(**given), labels)


def _refuse_row_options(given: Mapping[str, object]) -> None:
    if named := [f"--{name.replace('_', '-')}" for name, value in given.items() if value]:
        raise ConfigError(f"--to aloe writes whole conversations: it does not take {', '.join(named)}")


class _Trees:
    """The trees of a run, or of one that was judged again; each iteration reads them anew."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with contextlib.closing(iter(self)) as trees:  # type: ignore[type-var]
            next(trees, None)

    def __iter__(self) -> Iterator[Tree]:
        if (self.directory / TREES).is_file():
            yield from read_trees(self.directory / TREES)
        else:
            with contextlib.closing(Reading(self.directory)) as reading:
                yield from reading.trees()


def _rows(directory: Path, form: Form, out: Path, judge: str | None, chosen: Filter, labels: Labels) -> None:
    trees = _Trees(directory)
    in_folder = out.is_dir() or not out.suffix
    files, left = _files(out, in_folder, bool(chosen.validation)), Left()
    with contextlib.ExitStack() as stack:
        write = {split: stack.enter_context(writer(path)) for split, path in files.items()}
        for aside, row in rows(trees, form, chosen, judge, left, labels):
            write["validation" if aside else "train"](row)
        _check_split(directory, form, chosen, left)
    if in_folder:
        with replacing(out / CARD) as file:
            file.write(card(form, files, left, chosen, directory.name, labels).encode())
    click.echo(f"{left.rows - left.validation} rows in {files['train']}")
    if chosen.validation:
        click.echo(f"{left.validation} rows in {files['validation']}")
    if left.out:
        click.echo(f"turns left out: {left.reasons()}")


def _files(out: Path, in_folder: bool, split: bool) -> dict[str, Path]:
    """Where the rows go, by split."""
    if not in_folder and out.suffix not in ROWS:
        raise ConfigError(f"{out}: rows are written to {' or '.join(ROWS)} files, or into a directory")
    train = out / "train.jsonl" if in_folder else out
    name = f"validation{train.suffix}" if in_folder else f"{train.stem}-validation{train.suffix}"
    return {"train": train, "validation": train.with_name(name)} if split else {"train": train}


def _check_split(directory: Path, form: Form, chosen: Filter, left: Left) -> None:
    """Raise ConfigError where there is no row, or a split that was asked for is empty."""
    if not left.rows:
        raise ConfigError(f"{directory} has no row for {form}: {left.reasons()}")
    if chosen.validation and left.validation in (0, left.rows):
        which = "every" if left.validation else "no"
        raise ArgumentError(
            "validation", f"{chosen.validation:g} set {which} persona aside, since there are too few: choose another share "
            "or another seed",
        )  # fmt: skip


def _authors(directory: Path, out: Path) -> None:
    if out.is_dir():
        raise ConfigError(f"--out must be a file, but {out} is a directory")
    count = left_out = 0
    labels: set[str] = set()
    with contextlib.closing(Reading(directory)) as reading, replacing(out) as file:
        for tree in reading.trees():
            labels.update(label for turn in tree.turns for label in turn.answers)
            value, gaps = to_authors(tree)
            left_out += gaps
            if value["conversations"]:
                file.write(orjson.dumps(value) + b"\n")
                count += 1
        check_labels(labels)
    gaps_said = f"; {left_out} turns left out (gaps, branches)" if left_out else ""
    click.echo(f"{count} conversations in {out}{gaps_said}")
