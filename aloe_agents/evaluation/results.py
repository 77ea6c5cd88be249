"""What an evaluation found: from the trees of a run to ``results.json``, and back.

Every figure comes with how many scores stand behind it; what is missing is counted and never filled in. Two runs with
the same cases, settings and answers give the same file but for ``times``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.metrics import STATISTICS, Measured, Normalisation, Table, measure
from aloe_agents.files import replacing
from aloe_agents.personas import Persona
from aloe_agents.tree import Tree

RESULTS_FILE = "results.json"
RESULTS_SCHEMA = 1
MEAN = "mean"
"""The name under which the mean of a panel of judges stands."""
CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Results:
    """A results.json."""

    path: Path
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """The model's."""
        return str(self.body["model"]["name"])

    @property
    def judges(self) -> list[str]:
        """The judges whose scores it holds; the mean of a panel first."""
        return list(self.body["judges"])

    @property
    def cases(self) -> list[str]:
        """The ids of its cases, in order."""
        return [str(case["id"]) for case in self.body["per_case"]]

    @property
    def clusters(self) -> list[str]:
        """Of each case, what it shares with others: a digest of its profile."""
        return [str(case["cluster"]) for case in self.body["per_case"]]

    def scores(self, judge: str) -> Table:
        """The scores of a judge (cases, turns), nan where missing."""
        rows = [case["scores"][judge] for case in self.body["per_case"]]
        return np.array(rows, np.float64)

    def measured(self, judge: str, normalisation: Normalisation = "all") -> Measured:
        """The figures of a judge's scores."""
        return measure(self.scores(judge), self.clusters, normalisation=normalisation)


def read_results(path: Path) -> Results:
    """The results in a run's directory, or in that file. Raises ConfigError where there are none."""
    file = path / RESULTS_FILE if path.is_dir() else path
    try:
        body = orjson.loads(file.read_bytes())
        if body["schema"] != RESULTS_SCHEMA:
            raise ConfigError(f"{file} has schema {body['schema']!r}; this program reads {RESULTS_SCHEMA}")
        found = Results(file, body)
        for judge in found.judges:
            found.scores(judge)
        return found
    except FileNotFoundError:
        raise ConfigError(f"{path} holds no {RESULTS_FILE}: it is no finished evaluation") from None
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} is no result of an evaluation: {error}") from None


def write_results(path: Path, body: Mapping[str, Any]) -> None:
    """Write ``body`` as ``results.json``'s text, whole or not at all."""
    with replacing(path) as file:
        file.write(orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def cases_of(
    trees: Iterable[Tree], personas: Sequence[Persona], turns: int, judges: Sequence[str], label: str = CANDIDATE
) -> list[dict[str, Any]]:
    """One row a case, in the order of ``personas``: its scores by judge and turn, None where one is missing.

    With several judges there is their mean as well, where all of them gave a score.
    """
    held = {tree.id: tree for tree in trees}
    rows = []
    for persona in personas:
        tree = held.get(persona.id)
        scores: dict[str, list[float | None]] = {judge: [None] * turns for judge in judges}
        cut = 0
        for node in tree.turns if tree else ():
            if node.turn <= turns and (answer := node.answers.get(label)) is not None:
                for judge in judges:
                    scores[judge][node.turn - 1] = answer.scores.get(judge)
            cut += bool(node.notes.get("HistoryCut"))
        if len(judges) > 1:
            together = [[scores[judge][k] for judge in judges] for k in range(turns)]
            scores = {MEAN: [_mean(given) for given in together], **scores}
        rows.append(
            {
                "id": persona.id,
                "cluster": hashlib.sha256(persona.profile.encode()).hexdigest()[:12],
                "status": tree.status if tree else "pending",
                "answers": sum(label in node.answers for node in tree.turns) if tree else 0,
                "turns_with_cut_history": cut,
                "scores": scores,
            }
        )
    return rows


def figures(rows: Sequence[Mapping[str, Any]], normalisation: Normalisation = "all") -> dict[str, Any]:
    """AL(k), average, IR, R2, N-IR and N-R2 with intervals, by judge."""
    clusters = [row["cluster"] for row in rows]
    found = {}
    for judge in rows[0]["scores"]:
        scores = np.array([row["scores"][judge] for row in rows], np.float64)
        measured = measure(scores, clusters, normalisation=normalisation)
        found[judge] = {
            "al": [
                {
                    "turn": k,
                    "value": _rounded(al.value),
                    "low": _rounded(al.low),
                    "high": _rounded(al.high),
                    "scores": n,
                }
                for k, (al, n) in enumerate(zip(measured.al, measured.scores, strict=True), 1)
            ],
            **{
                name: {part: _rounded(getattr(measured.statistics[name], part)) for part in ("value", "low", "high")}
                for name in STATISTICS
            },
            "missing": measured.missing,
        }
    return found


def cases_digest(personas: Iterable[Persona]) -> str:
    """A digest of cases: two evaluations with equal ones are of the same cases."""
    digest = hashlib.sha256()
    for persona in personas:
        digest.update(repr((persona.id, persona.profile, persona.personality)).encode())
    return digest.hexdigest()[:16]


def _mean(given: Sequence[float | None]) -> float | None:
    known = [score for score in given if score is not None]
    return sum(known) / len(known) if len(known) == len(given) and known else None


def _rounded(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
