"""What an evaluation found: from the trees of a run to ``results.json``, and back.

1. Every figure says how many scores it rests on. Missing scores are counted and never filled in.
2. A user who leaves ends the conversation early. The turns after that have no score, and none is missing: AL(k) is the
   mean over the cases still there, and ``present`` says what share of the cases that is.
3. :class:`Results` is the public view: arrays, figures and a flat table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.metrics import Interval, Measured, Normalisation, Table, measure
from aloe_agents.evaluation.records import CaseRecord, EvaluationRecord, Figure, JudgeFigures, Score, TurnFigure
from aloe_agents.evaluation.scales import Scale
from aloe_agents.files import replacing
from aloe_agents.personas import Persona
from aloe_agents.tree import Tree, Turn

RESULTS_FILE = "results.json"
MEAN = "mean"
"""The name under which the mean of a panel of judges stands."""
CANDIDATE = "candidate"

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Results:
    """One evaluation: its record, and the file that holds it (None for one that was not recorded).

    Example::

        results = read_results("evals/mine")
        results.scores("judge").mean(axis=0)    # AL(k)
        pandas.DataFrame(results.table())
    """

    record: EvaluationRecord
    path: Path | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.record.model.name

    @property
    def place(self) -> str:
        """Where it lies, or else the model's name: for messages."""
        return str(self.path.parent) if self.path else self.name

    @property
    def judges(self) -> list[str]:
        """The judges that scored it. The mean of a panel comes first."""
        return list(self.record.judges)

    @property
    def cases(self) -> list[str]:
        """The ids of its cases, in order."""
        return [case.id for case in self.record.per_case]

    @property
    def clusters(self) -> list[str]:
        """For each case, a digest of its profile: cases that share a profile are not independent."""
        return [case.cluster for case in self.record.per_case]

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether the user was still there (cases, turns). Failed cases count as there."""
        return _present(self.record.per_case, self.record.turns)

    def scale(self, judge: str) -> Scale:
        """A judge's lowest and highest score. Raises ConfigError for a judge that it does not have."""
        return self._figures(judge).scale

    def scores(self, judge: str) -> Table:
        """A judge's scores (cases, turns); nan where one is missing or the user had left.

        Raises ConfigError for a judge that it does not have.
        """
        self._figures(judge)
        return np.array([case.scores[judge] for case in self.record.per_case], np.float64)

    def measured(self, judge: str, normalisation: Normalisation = "all") -> Measured:
        """The figures of a judge's scores, with intervals."""
        return measure(self.scores(judge), self.clusters, normalisation=normalisation, due=self.present)

    def unread(self) -> list[str]:
        """The judges that scored nothing although there were answers to score."""
        answered = any(case.answers for case in self.record.per_case)
        return [judge for judge in self.judges if answered and judge != MEAN and np.isnan(self.scores(judge)).all()]

    def table(self) -> list[dict[str, Cell]]:
        """One flat record for each case and turn, made for ``pandas.DataFrame``: model, case, cluster, status, turn,
        whether the user was present, and each judge's score (None where there is none).
        """
        return [
            {
                "model": self.name,
                "case": case.id,
                "cluster": case.cluster,
                "status": case.status,
                "turn": k + 1,
                "present": k < case.due(self.record.turns),
                **{judge: case.scores[judge][k] for judge in self.record.judges},
            }
            for case in self.record.per_case
            for k in range(self.record.turns)
        ]

    def _figures(self, judge: str) -> JudgeFigures:
        if (found := self.record.judges.get(judge)) is None:
            raise ConfigError(f"{self.place} has no scores by a judge {judge!r}; it has {', '.join(self.judges)}")
        return found


def read_results(path: Path | str) -> Results:
    """The results in a run's directory, or in that file. Raises ConfigError where there are none."""
    path = Path(path)
    file = path / RESULTS_FILE if path.is_dir() else path
    try:
        return Results(EvaluationRecord.from_json(file.read_bytes()), file)
    except FileNotFoundError:
        raise ConfigError(f"{path} is not a finished evaluation: it has no {RESULTS_FILE}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"cannot read {file}: {error}") from None


def find_results(place: Path | str) -> list[Results]:
    """The evaluation in ``place``, or those in the folders in it, in the order in which they began.

    Raises ConfigError where there are none.
    """
    place = Path(place)
    if place.is_file() or (place / RESULTS_FILE).exists():
        return [read_results(place)]
    found = [read_results(folder) for folder in evaluations_in(place)]
    if not found:
        raise ConfigError(f"{place} is not a finished evaluation: it has no {RESULTS_FILE}")
    return sorted(found, key=lambda one: one.record.times.began)


def evaluations_in(directory: Path) -> list[Path]:
    """The folders in ``directory`` that hold an evaluation, by name."""
    return sorted(file.parent for file in directory.glob(f"*/{RESULTS_FILE}"))


def write_results(path: Path, record: EvaluationRecord) -> Results:
    """Write ``record`` to the file ``path``, whole or not at all."""
    with replacing(path) as file:
        file.write(record.to_json())
    return Results(record, path)


def cases_of(
    trees: Iterable[Tree], personas: Sequence[Persona], turns: int, judges: Mapping[str, Scale], label: str = CANDIDATE
) -> tuple[CaseRecord, ...]:
    """One record for each of ``personas``, in order: its scores by judge and turn, None where there is none.

    ``judges`` are the names that scores stand under, each with its scale. Several judges with one scale have a mean as
    well, wherever all of them gave a score.
    """
    held = {tree.id: tree for tree in trees}
    rows = [_case(persona, held.get(persona.id), turns, [*judges], label) for persona in personas]
    return tuple(_with_mean(row) for row in rows) if has_mean(judges) else tuple(rows)


def has_mean(judges: Mapping[str, Scale]) -> bool:
    """Whether the scores of ``judges`` have a mean: several judges, one scale."""
    return len(judges) > 1 and len({*judges.values()}) == 1


def figures_of(
    rows: Sequence[CaseRecord], judges: Mapping[str, Scale], normalisation: Normalisation = "all"
) -> dict[str, JudgeFigures]:
    """AL(k), average, IR, R2, N-IR and N-R2 with intervals, by judge; the mean of a panel first."""
    scales = {MEAN: next(iter(judges.values())), **judges} if has_mean(judges) else dict(judges)
    clusters = [row.cluster for row in rows]
    found = {}
    for judge, scale in scales.items():
        scores = np.array([row.scores[judge] for row in rows], np.float64)
        due = _present(rows, scores.shape[1])
        found[judge] = _figures(measure(scores, clusters, normalisation=normalisation, due=due), scale)
    return found


def present_share(rows: Sequence[CaseRecord], turns: int) -> tuple[float, ...]:
    """By turn: the share of the cases whose user is still there."""
    return tuple(round(float(share), 6) for share in _present(rows, turns).mean(axis=0))


def _present(rows: Sequence[CaseRecord], turns: int) -> NDArray[np.bool_]:
    due = np.array([row.due(turns) for row in rows])
    present: NDArray[np.bool_] = np.arange(turns) < due[:, None]
    return present


def _case(persona: Persona, tree: Tree | None, turns: int, judges: Sequence[str], label: str) -> CaseRecord:
    nodes = _nodes(tree, turns)
    status = tree.status if tree else "pending"
    answered = {node.turn: node.answers[label].scores for node in nodes if label in node.answers}
    left = status == "completed" and len(nodes) < turns
    return CaseRecord(
        id=persona.id,
        cluster=hashlib.sha256(persona.profile.encode()).hexdigest()[:12],
        status=status,
        answers=len(answered),
        left_after=len(nodes) if left else None,
        turns_with_cut_history=sum(bool(node.notes.get("HistoryCut")) for node in nodes),
        scores={judge: tuple(answered.get(k, {}).get(judge) for k in range(1, turns + 1)) for judge in judges},
    )


def _nodes(tree: Tree | None, turns: int) -> list[Turn]:
    """The first ``turns`` turns of a tree."""
    return [node for node in tree.turns if node.turn <= turns] if tree else []


def _with_mean(row: CaseRecord) -> CaseRecord:
    together = zip(*row.scores.values(), strict=True)
    return replace(row, scores={MEAN: tuple(_mean(given) for given in together), **row.scores})


def _mean(given: Sequence[Score]) -> float | None:
    known = [score for score in given if score is not None]
    return sum(known) / len(known) if len(known) == len(given) and known else None


def _figures(measured: Measured, scale: Scale) -> JudgeFigures:
    figures = {name: _figure(one) for name, one in measured.statistics.items()}
    turns = tuple(
        TurnFigure(turn=k, value=_rounded(al.value), low=_rounded(al.low), high=_rounded(al.high), scores=count)
        for k, (al, count) in enumerate(zip(measured.al, measured.scores, strict=True), 1)
    )
    return JudgeFigures(scale=scale, al=turns, **figures, missing=measured.missing)


def _figure(one: Interval) -> Figure:
    return Figure(value=_rounded(one.value), low=_rounded(one.low), high=_rounded(one.high))


def _rounded(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
