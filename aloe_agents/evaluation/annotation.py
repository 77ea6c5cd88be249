"""Sheets for people who score answers, and how far they agree with the judge and with each other (section 5.4).

A sheet shows what the judge saw, persona, message and answer, and neither the score, nor the model, nor the turn; its
rows are in random order. An item's name is a digest, so a sheet alone does not tell where an answer comes from.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.metrics import kappa
from aloe_agents.files import read_text
from aloe_agents.tree import Tree

COLUMNS = ("item", "profile", "personality", "message", "answer", "score")


@dataclass(frozen=True, slots=True)
class Sheet:
    """What one annotator gave: the score of each item."""

    name: str
    scores: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two raters agree."""

    one: str
    other: str
    items: int
    """That both scored."""
    kappa: float
    quadratic: float
    equal: float
    """Share of equal scores."""


def item_of(tree: Tree, path: tuple[str, ...], label: str) -> str:
    """The name on a sheet of the answer ``label`` at the node ``path``."""
    return hashlib.sha256(repr((tree.id, tree.persona.profile, path, label)).encode()).hexdigest()[:10]


def draw_sheet(trees: Sequence[Tree], label: str, per_turn: int = 5, seed: int = 0) -> list[dict[str, str]]:
    """The rows of a sheet: ``per_turn`` answers of every turn, drawn uniformly, in random order.

    Raises ConfigError where a turn has not so many.
    """
    rng = random.Random(f"annotate {seed}")
    turns = max((node.turn for tree in trees for node in tree.turns), default=0)
    rows = []
    for turn in range(1, turns + 1):
        there = [(t, n) for t in trees for n in t.turns if n.turn == turn and label in n.answers]
        if len(there) < per_turn:
            raise ConfigError(
                f"turn {turn} has {len(there)} answers labelled {label!r}, and {per_turn} are to be drawn"
            )
        for tree, node in rng.sample(there, per_turn):
            persona = tree.persona
            texts = (persona.profile, persona.personality, node.user, node.answers[label].text)
            rows.append(dict(zip(COLUMNS, (item_of(tree, node.path, label), *texts, ""), strict=True)))
    rng.shuffle(rows)
    return rows


def to_csv(rows: Sequence[dict[str, str]]) -> str:
    """A sheet as CSV. A cell that a spreadsheet would take for a formula is put in quotes of its own."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    writer.writerows(
        {name: f"'{cell}" if cell[:1] in tuple("=+-@\t\r") else cell for name, cell in row.items()} for row in rows
    )
    return file.getvalue()


def read_sheet(path: Path) -> Sheet:
    """A sheet that came back. Raises ConfigError, naming the row, for a score that is missing or none of 1 to 5."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if missing := [name for name in ("item", "score") if name not in (reader.fieldnames or ())]:
        raise ConfigError(f"{path} has no column {missing[0]!r}")
    scores: dict[str, int] = {}
    for row in reader:
        where, item, given = f"{path}, row {reader.line_num}", (row["item"] or "").strip(), (row["score"] or "").strip()
        if not item:
            raise ConfigError(f"{where} has no item")
        if item in scores:
            raise ConfigError(f"{where}: the item {item} occurs twice")
        if given not in ("1", "2", "3", "4", "5"):
            what = f"the score {given!r} is none of 1 to 5" if given else "the score is missing"
            raise ConfigError(f"{where} (item {item}): {what}")
        scores[item] = int(given)
    if not scores:
        raise ConfigError(f"{path} holds no row")
    return Sheet(path.stem, scores)


def judged(trees: Sequence[Tree], judge: str, label: str) -> Sheet:
    """The judge's own scores as a sheet; expectations are rounded to whole scores, what is missing is left out."""
    scores = {}
    for tree in trees:
        for node in tree.turns:
            if (answer := node.answers.get(label)) is not None and (score := answer.scores.get(judge)) is not None:
                scores[item_of(tree, node.path, label)] = int(np.floor(score + 0.5))
    return Sheet(judge, scores)


def agreement(one: Sheet, other: Sheet) -> Agreement:
    """How far two raters agree on the items that both scored. Raises ConfigError where there is none."""
    shared = sorted(one.scores.keys() & other.scores.keys())
    if not shared:
        raise ConfigError(f"{one.name} and {other.name} share no item: do these sheets belong to this run?")
    first, second = ([rater.scores[item] for item in shared] for rater in (one, other))
    return Agreement(
        one=one.name,
        other=other.name,
        items=len(shared),
        kappa=kappa(first, second),
        quadratic=kappa(first, second, "quadratic"),
        equal=float(np.mean(np.equal(first, second))),
    )


def agreements(judge: Sheet, annotators: Sequence[Sheet]) -> tuple[list[Agreement], list[Agreement]]:
    """Every annotator against the judge, and the annotators among themselves."""
    return [agreement(judge, one) for one in annotators], [
        agreement(*pair) for pair in itertools.combinations(annotators, 2)
    ]
