"""``aloe export``: a run's trees as rows for trainers, or in the form that the paper's authors publish."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing
from aloe_agents.runs.reading import TREES, Reading
from aloe_agents.training.authors import to_authors
from aloe_agents.training.rows import FORMS, Filter, Form, Left, rows
from aloe_agents.training.writing import card, writer
from aloe_agents.tree import Tree, read_trees

CARD = "README.md"
ROWS = (".jsonl", ".parquet")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice([*get_args(Form), "aloe"]), required=True, help="Rows for trl, or the paper's "
              "authors' form.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A file (.jsonl, .parquet), or of rows a "
              "directory.")  # fmt: skip
@click.option("--judge", help="Whose scores make the margin, where several judged.")
@click.option("--min-margin", type=float, help="Leave out turns whose answers' scores differ by less.")
@click.option("--per-persona", type=click.IntRange(1), help="At most so many turns of one persona.")
@click.option("--validation", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Share of the personas to set "
              "aside.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split and the cap.")
def command(
    directory: Path,
    form: str,
    out: Path,
    judge: str | None,
    min_margin: float | None,
    per_persona: int | None,
    validation: float,
    seed: int,
) -> None:
    """Write the trees of a run for trainers and other programs.

    \b
    aloe export runs/first --to dpo --validation 0.05 --out rows
    aloe export runs/first --to aloe --out conversations.jsonl
    """
    if form == "aloe":
        given = {"--judge": judge, "--min-margin": min_margin, "--per-persona": per_persona, "--validation": validation}
        if of_rows := [name for name, value in given.items() if value]:
            raise ConfigError(f"--to aloe writes whole conversations, and takes no {', '.join(of_rows)}")
        _authors(directory, out)
        return
    kind = next(known for known in FORMS if known == form)
    _rows(
        directory,
        kind,
        out,
        judge,
        Filter(min_margin=min_margin, per_persona=per_persona, validation=validation, seed=seed),
    )


class _Trees:
    """The trees of a run, or of a run that was judged again: read anew each time they are gone through."""

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


def _rows(directory: Path, form: Form, out: Path, judge: str | None, chosen: Filter) -> None:
    trees = _Trees(directory)
    in_folder = out.is_dir() or not out.suffix
    if not in_folder and out.suffix not in ROWS:
        raise ConfigError(f"{out}: rows are written to {' or '.join(ROWS)} files, or into a directory")
    train = out / "train.jsonl" if in_folder else out
    files = {"train": train}
    if chosen.validation:
        name = f"validation{train.suffix}" if in_folder else f"{train.stem}-validation{train.suffix}"
        files["validation"] = train.with_name(name)
    left = Left()
    with contextlib.ExitStack() as stack:
        write = {split: stack.enter_context(writer(path)) for split, path in files.items()}
        for aside, row in rows(trees, form, chosen, judge, left):
            write["validation" if aside else "train"](row)
        if not left.rows:
            why = ", ".join(f"{count} {reason}" for reason, count in left.out.most_common()) or "there is no turn"
            raise ConfigError(f"{directory} has no row for {form}: {why}")
        if chosen.validation and left.validation in (0, left.rows):
            raise ConfigError(
                f"--validation {chosen.validation:g} set {'every' if left.validation else 'no'} persona aside: there are too "
                "few for it; ask for another share, or another --seed"
            )
    if in_folder:
        with replacing(out / CARD) as file:
            file.write(card(form, files, left, chosen, directory.name).encode())
    click.echo(f"{left.rows - left.validation} rows in {files['train']}")
    if chosen.validation:
        click.echo(f"{left.validation} rows in {files['validation']}")
    if left.out:
        click.echo("turns left out: " + ", ".join(f"{count} {reason}" for reason, count in left.out.most_common()))


def _authors(directory: Path, out: Path) -> None:
    if out.is_dir():
        raise ConfigError(f"{out} is a directory; --out names a file")
    count = left_out = 0
    with contextlib.closing(Reading(directory)) as reading, replacing(out) as file:
        for tree in reading.trees():
            value, gaps = to_authors(tree)
            left_out += gaps
            if value["conversations"]:
                file.write(orjson.dumps(value) + b"\n")
                count += 1
    click.echo(
        f"{count} conversations in {out}" + (f"; {left_out} turns left out (gaps, branches)" if left_out else "")
    )
