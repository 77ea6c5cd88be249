"""What ``results.json`` holds, as records.

1. Every record is a frozen dataclass. ``EvaluationRecord.to_json`` writes it, ``from_json`` reads it back.
2. Reading checks the type of every field, and that every judge has a score or a gap for each case and turn. The error
   names the field that is wrong, in one line.
3. Figures that are nan are ``None`` here and null in the file. Two runs with the same cases, settings and answers write
   the same file but for ``times``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from aloe_agents.runs.records import Accounting, Usage

RESULTS_SCHEMA = 2
Score = int | float | None
"""None where a judge's score is missing, or the user had left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The model under test."""

    name: str
    endpoint: str
    directory: str | None = None
    """Where a local model lies."""
    base: str | None = None
    """The base model's directory, for an adapter."""
    vllm: tuple[str, ...] | None = None
    """Options added to vLLM's command line, for a local model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesRecord:
    """Which cases were used."""

    count: int
    digest: str
    """Evaluations with equal digests used the same cases."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure and its 95 % interval; None stands for nan."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFigure:
    """AL(k) at one turn, with its interval."""

    turn: int
    """k, counted from 1."""
    value: float | None
    low: float | None
    high: float | None
    scores: int
    """How many scores AL(k) is the mean of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFigures:
    """The figures of one judge's scores (paper, section 3)."""

    scale: tuple[int | float, int | float]
    """Lowest and highest score; two ints for whole scores."""
    al: tuple[TurnFigure, ...]
    average: Figure
    ir: Figure
    r2: Figure
    n_ir: Figure
    n_r2: Figure
    missing: int
    """Scores that should exist and do not: the judge's answer could not be read, or the case failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What became of the cases, and what they cost: completed + failed + pending = requested."""

    requested: int
    completed: int
    failed: Mapping[str, int]
    """By reason."""
    pending: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    roles: Mapping[str, Usage]
    """By the agents' names."""

    @classmethod
    def of(cls, accounting: Accounting) -> Spending:
        """The part of a run's accounting that does not depend on how often the run was interrupted."""
        return cls(
            requested=accounting.requested,
            completed=accounting.completed,
            failed=accounting.failed,
            pending=accounting.pending,
            calls=accounting.calls,
            prompt_tokens=accounting.prompt_tokens,
            completion_tokens=accounting.completion_tokens,
            cost=accounting.cost,
            roles=accounting.roles,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """One case: a persona, and the scores of the conversation with it."""

    id: str
    cluster: str
    """A digest of the profile; cases that share one are drawn together by the bootstrap."""
    status: str
    """``completed``, ``failed`` or ``pending``."""
    answers: int
    """How many answers the model gave."""
    left_after: int | None
    """The turns after which the user left; None where the user stayed, or the case did not complete."""
    turns_with_cut_history: int
    scores: Mapping[str, tuple[Score, ...]]
    """By judge: the score at each turn."""

    def due(self, turns: int) -> int:
        """At how many of ``turns`` turns a score should exist."""
        return turns if self.left_after is None else min(self.left_after, turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassAgreement:
    """How far several passes of one judge agree."""

    passes: int
    answers: int
    """The answers that every pass scored."""
    deviation: float
    """Mean standard deviation of the scores of one answer, in points of the scale."""
    equal: float
    """Share of the answers to which every pass gave the same score."""
    kappa: float | None
    """Mean over pairs of passes, with quadratic weights; whole scales are rounded to whole scores first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejudgedRecord:
    """What scores given to a finished run go back to."""

    of: str
    """The run's directory."""
    trees: str
    """A digest of the personas."""
    passes: int
    agreement: PassAgreement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When an evaluation began (ISO 8601, UTC) and how many seconds it took; None where it did not finish."""

    began: str
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """One evaluation: everything in its ``results.json``."""

    schema: int = RESULTS_SCHEMA
    model: ModelRecord
    cases: CasesRecord
    turns: int
    """K."""
    seed: int
    normalisation: Literal["all", "running"]
    user: Mapping[str, str]
    """What the simulated user's messages depend on: model, sampling, prompt and so on."""
    judged_by: Mapping[str, Mapping[str, str]]
    """The same by judge."""
    judges: Mapping[str, JudgeFigures]
    present: tuple[float, ...]
    """By turn: the share of the cases whose user is still there."""
    accounting: Spending
    turns_with_cut_history: int
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    times: Times
    judged_again: RejudgedRecord | None = None
    per_case: tuple[CaseRecord, ...]

    def to_json(self) -> bytes:
        """The text of ``results.json``."""
        return orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_json(cls, text: bytes) -> EvaluationRecord:
        """The record that ``to_json`` wrote. Raises ValueError, saying in one line what is wrong, for anything else."""
        import pydantic

        _check_schema(text)
        try:
            record = pydantic.TypeAdapter(cls).validate_json(text, strict=True)
        except pydantic.ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in problem["loc"] if part not in ("int", "float"))
            raise ValueError(f"{place}: {problem['msg'].lower()}") from None
        _check_scores(record)
        return record


def _check_schema(text: bytes) -> None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    found = value.get("schema") if isinstance(value, dict) else None
    if found is None:
        raise ValueError("not an object with a schema")
    if found != RESULTS_SCHEMA:
        raise ValueError(
            f"schema {found} was written by another version (this one reads {RESULTS_SCHEMA}); "
            "run the evaluation again to rewrite the file"
        )


def _check_scores(record: EvaluationRecord) -> None:
    if record.turns < 1 or not record.per_case or not record.judges:
        raise ValueError("there is no turn, no case or no judge")
    if len(record.present) != record.turns:
        raise ValueError(f"present: {len(record.present)} shares for {record.turns} turns")
    for n, case in enumerate(record.per_case):
        for judge in record.judges:
            if (found := len(case.scores.get(judge, ()))) != record.turns:
                raise ValueError(f"per_case.{n}.scores.{judge}: {found} scores for {record.turns} turns")
