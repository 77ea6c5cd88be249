"""Sheets for people who score answers, and how far they agree with the judge and with each other (section 5.4).

A sheet shows what the judge saw: persona, message and answer. It shows neither score, nor model, nor turn, and its rows
are in random order. An item's name is a digest, so a sheet alone does not tell where an answer comes from.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.metrics import kappa
from aloe_agents.evaluation.scales import DEFAULT_SCALE, Scale, in_words, is_whole, on_scale, ratings_of
from aloe_agents.files import read_text
from aloe_agents.tree import Tree

COLUMNS = ("item", "profile", "personality", "message", "answer", "score")
_FORMULA = tuple("=+-@\t\r")
"""What a spreadsheet takes for the start of a formula."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One rater's scores by item, and the scale that they are on."""

    name: str
    scores: Mapping[str, float]
    scale: Scale = field(default=DEFAULT_SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterAgreement:
    """How far two raters agree."""

    one: str
    other: str
    items: int
    """How many items both scored."""
    kappa: float
    """Cohen's; nan on a scale that is wide or has fractions, where equal scores say little."""
    quadratic: float
    """Cohen's with quadratic weights."""
    equal: float
    """Share of equal scores."""


def item_of(tree: Tree, path: tuple[str, ...], label: str) -> str:
    """The name on a sheet of the answer ``label`` at the node ``path``."""
    return hashlib.sha256(repr((tree.id, tree.persona.profile, path, label)).encode()).hexdigest()[:10]


def draw_sheet(trees: Sequence[Tree], label: str, per_turn: int = 5, seed: int = 0) -> list[dict[str, str]]:
    """The rows of a sheet in random order: ``per_turn`` answers of every turn, drawn uniformly.

    Raises ConfigError for a turn with fewer answers.
    """
    rng = random.Random(f"annotate {seed}")
    turns = max((node.turn for tree in trees for node in tree.turns), default=0)
    rows = []
    for turn in range(1, turns + 1):
        found = [(t, n) for t in trees for n in t.turns if n.turn == turn and label in n.answers]
        if len(found) < per_turn:
            raise ConfigError(
                f"cannot draw {per_turn} answers from turn {turn}: it has {len(found)} answers labelled {label!r}"
            )
        for tree, node in rng.sample(found, per_turn):
            persona = tree.persona
            texts = (persona.profile, persona.personality, node.user, node.answers[label].text)
            rows.append(dict(zip(COLUMNS, (item_of(tree, node.path, label), *texts, ""), strict=True)))
    rng.shuffle(rows)
    return rows


def to_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """A sheet as CSV. A cell that a spreadsheet would take for a formula starts with an apostrophe."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    writer.writerows(
        {name: f"'{cell}" if cell.startswith(_FORMULA) else cell for name, cell in row.items()} for row in rows
    )
    return file.getvalue()


def read_sheet(path: Path | str, scale: Scale = DEFAULT_SCALE) -> Sheet:
    """A sheet that a rater has filled in. Raises ConfigError, naming the row, for a score that is missing or not on
    ``scale``.
    """
    path = Path(path)
    scores: dict[str, float] = {}
    for where, item, given in _rows(path):
        if not item:
            raise ConfigError(f"{where} has no item")
        if item in scores:
            raise ConfigError(f"{where}: the item {item} occurs twice")
        scores[item] = _score(given, scale, f"{where} (item {item})")
    if not scores:
        raise ConfigError(f"{path} has no rows")
    return Sheet(path.stem, scores, scale)


def judged(trees: Sequence[Tree], judge: str, label: str, scale: Scale = DEFAULT_SCALE) -> Sheet:
    """The judge's own scores as a sheet. Missing ones are left out; on a whole scale, expectations are rounded."""
    scores = {}
    for tree in trees:
        for node in tree.turns:
            if (answer := node.answers.get(label)) is not None and (score := answer.scores.get(judge)) is not None:
                rounded = float(np.floor(score + 0.5)) if is_whole(scale) else float(score)
                scores[item_of(tree, node.path, label)] = rounded
    return Sheet(judge, scores, scale)


def agreement(one: Sheet, other: Sheet) -> RaterAgreement:
    """How far two raters agree on the items that both scored. Raises ConfigError if there are none."""
    shared = sorted(one.scores.keys() & other.scores.keys())
    if not shared:
        raise ConfigError(f"{one.name} and {other.name} share no item: do these sheets belong to this run?")
    first, second = ([rater.scores[item] for item in shared] for rater in (one, other))
    ratings = ratings_of(one.scale)
    return RaterAgreement(
        one=one.name,
        other=other.name,
        items=len(shared),
        kappa=kappa(first, second, ratings=ratings) if ratings else float("nan"),
        quadratic=kappa(first, second, "quadratic", ratings),
        equal=float(np.mean(np.equal(first, second))),
    )


def agreements(judge: Sheet, annotators: Sequence[Sheet]) -> tuple[list[RaterAgreement], list[RaterAgreement]]:
    """Every annotator against the judge, and the annotators among themselves."""
    return [agreement(judge, one) for one in annotators], [
        agreement(*pair) for pair in itertools.combinations(annotators, 2)
    ]


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Of each row where it stands, its item and its score, as they were typed."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if missing := [name for name in ("item", "score") if name not in (reader.fieldnames or ())]:
        raise ConfigError(f"{path} has no column {missing[0]!r}")
    for row in reader:
        yield f"{path}, row {reader.line_num}", (row["item"] or "").strip(), (row["score"] or "").strip()


def _score(given: str, scale: Scale, where: str) -> float:
    """The score in a cell. Raises ConfigError for anything that is not on the scale."""
    if not given:
        raise ConfigError(f"{where}: the score is missing")
    try:
        score = float(given) if given.isascii() and not given.startswith("+") else float("nan")
    except ValueError:
        score = float("nan")
    if not on_scale(score, scale):
        kind = "whole number" if is_whole(scale) else "number"
        raise ConfigError(f"{where}: the score {given!r} is not a {kind} from {in_words(scale)}")
    return score
