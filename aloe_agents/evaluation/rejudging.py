"""``rejudge``: finished trees are scored again. What was said is said once more on the bus, and only the judge is asked.

1. Each pass over a tree is a conversation of its own, so several passes are several samples of each score. How far they
   agree is the judge's own variance.
2. A directory's first scores stay as they are. The new ones go to ``judged/NAME`` in it, where the same call resumes:
   the trees with both, and of an evaluation a ``results.json``.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aloe_agents.engine.agent import Agent, Scene
from aloe_agents.engine.bus import Bus, Observer, ask_plainly
from aloe_agents.engine.conversation import Conversation
from aloe_agents.engine.outcome import hold_conversation
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.evaluation.metrics import kappa
from aloe_agents.evaluation.records import EvaluationRecord, PassAgreement, RejudgedRecord
from aloe_agents.evaluation.results import (
    RESULTS_FILE,
    Results,
    cases_of,
    evaluations_in,
    figures_of,
    read_results,
    write_results,
)
from aloe_agents.evaluation.scales import DEFAULT_SCALE, Scale, is_whole, ratings_of, scale_of, score_names
from aloe_agents.files import replacing
from aloe_agents.messages import Answered, Message, NodePath, Scored, TurnOpened, UserSaid
from aloe_agents.personas import Persona, personas_digest
from aloe_agents.runs.reading import TREES
from aloe_agents.runs.run import Run, live_for
from aloe_agents.runs.settings import agent_settings, endpoints_of
from aloe_agents.tree import Tree, read_trees

FOLDER = "judged"
Scores = dict[tuple[str, NodePath, str, str], list[float | None]]
"""By tree, node, label of the answer and name of the score: the score of each pass, None where one is missing."""


@dataclass(frozen=True, slots=True)
class Rejudged:
    """What a second judgement gave."""

    names: tuple[str, ...]
    """The names of the judge's scores; with several passes each has its number in the trees, such as ``big-1``."""
    passes: int
    scores: Scores
    trees: tuple[Tree, ...]
    """The trees with their first scores and the new ones."""
    results: Results | None = None
    """Of an evaluation: its figures by the new scores."""
    path: Path | None = None
    """The directory that it is recorded in."""
    stopped: bool = False
    """Whether the run was stopped: then scores are missing, and nothing was written."""
    scale: Scale = DEFAULT_SCALE

    @property
    def missing(self) -> int:
        """Scores that could not be read."""
        return sum(score is None for row in self.scores.values() for score in row)

    @property
    def unread(self) -> tuple[str, ...]:
        """The names under which not one score could be read."""
        read = {key[3] for key, row in self.scores.items() if any(score is not None for score in row)}
        return tuple(name for name in self.names if self.scores and name not in read)

    @property
    def agreement(self) -> PassAgreement | None:
        """How far the passes agree; None with one pass, or if no answer was scored in all of them."""
        scored = any(None not in row for row in self.scores.values())
        return self_agreement(self.scores, self.scale) if self.passes > 1 and scored else None

    def means(self) -> Iterator[tuple[str, str, float | None, int]]:
        """By label of the answer and name of the score: the mean (None without a score) of how many scores."""
        for label, name in dict.fromkeys(key[2:] for key in self.scores):
            rows = [row for key, row in self.scores.items() if key[2:] == (label, name)]
            given = [score for row in rows for score in row if score is not None]
            yield label, name, float(np.mean(given)) if given else None, len(given)


async def rejudge(
    trees: Iterable[Tree] | Path | str,
    judge: Agent,
    *,
    out: Path | str | None = None,
    passes: int = 1,
    live: int | None = None,
    force: bool = False,
    observers: Sequence[Observer] = (),
    keep_open: bool = True,
    on_open: Callable[[Run], None] | None = None,
) -> Rejudged:
    """Have ``judge`` score every answer of finished trees, ``passes`` times; nothing else is asked.

    ``trees`` is the directory of a run or an evaluation, or the trees themselves. Of a directory, ``out`` defaults to
    ``judged/NAME`` in it; of trees, to none: nothing is recorded. Recorded ones resume. ``live`` is how many trees are
    judged at once.

    Raises ConfigError before anything is asked, and Fatal if the run cannot continue: all answers are kept.
    """
    if passes < 1:
        raise ConfigError(f"passes must be at least 1, not {passes}")
    directory: Path | None = None
    if isinstance(trees, Path | str):
        directory = one_run(trees)
        given = list(read_trees(directory / TREES))
    else:
        given = list(trees)
    _check(given, judge, directory)
    if out is None and directory is not None:
        out = directory / FOLDER / judge.name
    endpoints = endpoints_of([judge])
    run = Run(
        out,
        settings=rejudging_settings(given, judge),
        endpoints=endpoints,
        requested=len(given) * passes,
        observers=observers,
        force=force,
        keep_open=keep_open,
    )
    async with run:
        scores = await _scored(given, judge, passes, live or live_for(endpoints.values()), run, on_open)
        if not run.stopped:
            await run.finish()
    found = Rejudged(
        names=score_names(judge),
        passes=passes,
        scores=scores,
        trees=with_scores(given, scores, passes),
        path=run.directory,
        stopped=run.stopped,
        scale=scale_of(judge),
    )
    return found if run.stopped else _recorded(found, judge, directory)


def rejudging_settings(trees: Sequence[Tree], judge: Agent) -> dict[str, str]:
    """What the scores depend on, by name: the judge, and what was said in the trees."""
    digest = hashlib.sha256()
    for tree in trees:
        for turn in tree.turns:
            said = [(label, answer.text) for label, answer in turn.answers.items()]
            digest.update(repr((tree.id, turn.path, turn.user, said)).encode())
    settings = {f"{what} of judge": value for what, value in agent_settings(judge).items()}
    return {**settings, "trees": f"{len(trees)} (digest {digest.hexdigest()[:12]})"}


def one_run(directory: Path | str) -> Path:
    """``directory``, if it holds one finished run. Raises ConfigError, with the choices if it holds several."""
    directory = Path(directory)
    if (directory / TREES).is_file():
        return directory
    if inside := evaluations_in(directory):
        names = ", ".join(place.name for place in inside)
        raise ConfigError(f"{directory} holds {len(inside)} evaluations ({names}): name one, such as {inside[0]}")
    raise ConfigError(f"{directory} is not a finished run: it has no {TREES}")


def judges_in(trees: Iterable[Tree]) -> set[str]:
    """The names under which ``trees`` hold scores."""
    return {name for tree in trees for turn in tree.turns for one in turn.answers.values() for name in one.scores}


def with_scores(trees: Sequence[Tree], scores: Scores, passes: int) -> tuple[Tree, ...]:
    """Copies of ``trees`` that hold ``scores`` beside their own; of several passes, each under a name with its number."""
    scored = tuple(copy.deepcopy(tree) for tree in trees)
    answers = {(t.id, n.path, label): answer for t in scored for n in t.turns for label, answer in n.answers.items()}
    for (id, path, label, name), row in scores.items():
        answers[id, path, label].scores |= dict(zip(pass_names(name, passes), row, strict=True))
    return scored


def pass_names(name: str, passes: int) -> list[str]:
    """The names of the scores of each pass: ``name`` itself for one, else ``name-1`` and so on."""
    return [name] if passes == 1 else [f"{name}-{n}" for n in range(1, passes + 1)]


def self_agreement(scores: Scores, scale: Scale = DEFAULT_SCALE) -> PassAgreement:
    """How far two passes or more agree. Raises ValueError for fewer passes, or if no answer was scored in all of them."""
    given = [row for row in scores.values() if None not in row]
    table = np.array(given, np.float64)
    passes = len(next(iter(scores.values()), []))
    if passes < 2 or not len(table):
        raise ValueError("agreement needs two passes and an answer that both scored")
    ratings = ratings_of(scale)
    columns = np.rint(table).T if is_whole(scale) else table.T
    found = [kappa(one, other, "quadratic", ratings) for one, other in itertools.combinations(columns, 2)]
    mean = float(np.mean(found))
    return PassAgreement(
        passes=passes,
        answers=len(table),
        deviation=float(table.std(axis=1, ddof=1).mean()),
        equal=float((table == table[:, :1]).all(axis=1).mean()),
        kappa=mean if np.isfinite(mean) else None,
    )


def _check(trees: Sequence[Tree], judge: Agent, directory: Path | None) -> None:
    where = str(directory) if directory else "the list of trees"
    if not trees:
        raise ConfigError(f"{where} holds no tree to judge")
    if "/" in judge.name or not judge.name.isprintable() or judge.name in ("", ".", ".."):
        raise ConfigError(f"a judge cannot be called {judge.name!r}")
    if taken := sorted(judges_in(trees) & {*score_names(judge)}):
        raise ConfigError(f"{where} has scores by a judge {taken[0]!r} already; give this one another name")


async def _scored(
    trees: Sequence[Tree],
    judge: Agent,
    passes: int,
    live: int,
    run: Run,
    on_open: Callable[[Run], None] | None,
) -> Scores:
    """The scores of every answer and pass. Raises Fatal if one ended the run."""
    recorder = run.recorder
    observers = [*([recorder.observe] if recorder else []), *run.observers]
    bus = Bus([_Recalled(trees), judge], observers, record=recorder.record if recorder else ask_plainly)
    run.drive(bus)
    if on_open:
        on_open(run)
    if recorder:
        await recorder.prepare()
    scores = _unscored(trees, judge, passes)
    places = asyncio.Semaphore(live)

    async def one(tree: Tree, number: int) -> None:
        async with places:
            if bus.stopped:
                return
            conversation = Conversation(id=f"{tree.id}#{number + 1}", seed=number, persona=tree.persona, turns=1)
            try:
                await hold_conversation(bus, recorder, conversation, TurnOpened(conversation=conversation.id), _verdict)
            except Fatal as fatal:
                bus.stop(fatal)
                return
            for message in (said for said in conversation.said.values() if isinstance(said, Scored)):
                answer, _, name = message.label.partition("/")
                scores[tree.id, message.path, answer, name][number] = message.score

    async with asyncio.TaskGroup() as group:
        for tree, number in itertools.product(trees, range(passes)):
            group.create_task(one(tree, number))
    if bus.cause:
        raise bus.cause
    if recorder:
        await run.journal.commit()
    return scores


def _unscored(trees: Sequence[Tree], judge: Agent, passes: int) -> Scores:
    """A gap for every answer, score and pass."""
    answers = ((tree.id, turn.path, label) for tree in trees for turn in tree.turns for label in turn.answers)
    return {(*answer, name): [None] * passes for answer in answers for name in score_names(judge)}


class _Recalled:
    """Says everything that a finished tree holds."""

    name = "recalled"
    hears = (TurnOpened,)
    says = (UserSaid, Answered)

    def __init__(self, trees: Sequence[Tree]) -> None:
        self._trees = {tree.id: tree for tree in trees}

    async def respond(self, heard: TurnOpened, scene: Scene) -> list[Message]:
        said: list[Message] = []
        for turn in self._trees[heard.conversation.rpartition("#")[0]].turns:
            said.append(UserSaid(conversation=heard.conversation, path=turn.path, text=turn.user))
            for label, answer in turn.answers.items():
                said.append(Answered(conversation=heard.conversation, path=turn.path, label=label, text=answer.text))
        return said


def _recorded(found: Rejudged, judge: Agent, directory: Path | None) -> Rejudged:
    """Write the trees, and of an evaluation its results."""
    if found.path is None:
        return found
    with replacing(found.path / TREES) as file:
        for tree in found.trees:
            file.write(tree.to_json() + b"\n")
    if directory is None or not (directory / RESULTS_FILE).exists():
        return found
    record = _record(found, judge, read_results(directory).record, directory)
    return replace(found, results=write_results(found.path / RESULTS_FILE, record))


def _record(found: Rejudged, judge: Agent, first: EvaluationRecord, directory: Path) -> EvaluationRecord:
    """The record of an evaluation with the figures of the new scores in place of the first ones."""
    held = {tree.id: tree.persona for tree in found.trees}
    people = [held.get(case.id) or Persona(id=case.id, profile=case.id, personality="") for case in first.per_case]
    scales = {name: found.scale for base in found.names for name in pass_names(base, found.passes)}
    rows = tuple(
        replace(before, scores=row.scores)
        for row, before in zip(cases_of(found.trees, people, first.turns, scales), first.per_case, strict=True)
    )
    return replace(
        first,
        judged_by=dict.fromkeys(scales, agent_settings(judge)),
        judges=figures_of(rows, scales, first.normalisation),
        judged_again=RejudgedRecord(
            of=str(directory),
            trees=personas_digest(held.values()),
            passes=found.passes,
            agreement=found.agreement,
        ),
        per_case=rows,
    )


def _verdict(conversation: Conversation) -> tuple[str, str]:
    if conversation.interrupted:
        return "pending", ""
    return ("failed", conversation.failures[0].reason) if conversation.failures else ("completed", "")
