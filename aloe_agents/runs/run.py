"""One run: the owner of its journal, recorder, endpoints and stop, and what can be read of it afterwards.

::

    async with Run("runs/one", settings=..., endpoints=..., requested=n) as run:     # recorded; the same call resumes
        ...                                       # agents ask through run.recorder, run.observers see what is said
        await run.finish()
    run.accounting, run.failures(), run.trees(), run.table()

1. Entering takes the directory's lock, opens the journal and says what the run is. A directory that holds a run with
   other settings is refused, unless ``force`` is given; answers to unchanged questions are then used again.
2. Whatever works for the run is registered with :meth:`Run.drive`, so that :meth:`Run.stop` reaches it.
3. Leaving closes the journal, then the endpoints that belong to the run. A closed journal refuses work.
4. ``Run.in_memory()`` records nothing; ``Run("runs/one")`` without entering reads what is there, also while another
   process writes it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from aloe_agents.engine.bus import Observer
from aloe_agents.errors import ConfigError
from aloe_agents.models.endpoint import Endpoint
from aloe_agents.reporting import FirstOfEachKind
from aloe_agents.runs.efficiency import Efficiency
from aloe_agents.runs.journal import EndpointRecord, Journal, differences
from aloe_agents.runs.progress import EndpointLine, Progress, Snapshot
from aloe_agents.runs.reading import TREES, Reading, Trees, write_trees
from aloe_agents.runs.recorder import Recorder
from aloe_agents.runs.records import Accounting, FailureRecord, Usage
from aloe_agents.tree import Tree

LOG = "run.log"
"""Where log messages go at level DEBUG: with the traceback of the first failure of each kind."""


class Stoppable(Protocol):
    """What works for a run: a Simulation, a Growth, a Bus."""

    def stop(self) -> None:
        """Ask nothing more; what is in flight lands."""


class Run:
    """A run in the directory ``out``, or in memory where ``out`` is None. See the module for its life.

    ``settings`` is what the answers depend on, by name; ``endpoints`` are described in the journal and closed in the end
    unless ``keep_open``; ``requested`` is how many conversations there are to hold.
    """

    def __init__(
        self,
        out: Path | str | None,
        *,
        settings: Mapping[str, str] | None = None,
        endpoints: Mapping[str, Endpoint] | None = None,
        requested: int = 0,
        seed: int = 0,
        turns: int = 1,
        observers: Sequence[Observer] = (),
        force: bool = False,
        keep_open: bool = False,
    ) -> None:
        self.directory = None if out is None else Path(out)
        self.settings = None if settings is None else dict(settings)
        self.endpoints = dict(endpoints or {})
        self.requested, self.seed, self.turns = requested, seed, turns
        self.progress = Progress(str(out or "in memory"), seed, turns, requested, self._lines)
        """A picture of the run while it goes on: ``run.progress.snapshot()``."""
        self.observers: list[Observer] = [self.progress.observe, *observers]
        self.recorder: Recorder | None = None
        self.stopped = False
        """Whether :meth:`stop` was called."""
        self._force, self._keep_open = force, keep_open
        self._driven: list[Stoppable] = []
        self._journal: Journal | None = None
        self._trees: list[Tree] = []
        self._written: Trees | None = None
        self._log: logging.FileHandler | None = None

    @classmethod
    def in_memory(
        cls, *, endpoints: Mapping[str, Endpoint] | None = None, requested: int = 0, seed: int = 0, turns: int = 1,
        observers: Sequence[Observer] = (), keep_open: bool = False,
    ) -> Run:  # fmt: skip
        """A run that records nothing: it cannot be resumed, and its trees live as long as it does."""
        return cls(
            None,
            endpoints=endpoints,
            requested=requested,
            seed=seed,
            turns=turns,
            observers=observers,
            keep_open=keep_open,
        )

    # --- its life ---

    async def __aenter__(self) -> Self:
        """Raises ConfigError where the directory is in use, holds another run, or cannot be written."""
        try:
            if self.directory is not None:
                await self._open(self.directory)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _open(self, directory: Path) -> None:
        if self.settings is None:
            raise ConfigError("a recorded run needs settings: what its answers depend on, by name")
        check_settings(directory, self.settings, self._force)
        self._journal = Journal(directory)
        if (logger := logging.getLogger("aloe_agents")).isEnabledFor(logging.DEBUG):
            self._log = logging.FileHandler(directory / LOG, encoding="utf-8")
            self._log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._log.addFilter(FirstOfEachKind())
            logger.addHandler(self._log)
        self.recorder = Recorder(self._journal)
        described = {name: describe(endpoint) for name, endpoint in self.endpoints.items()}
        await self._journal.claim(
            seed=self.seed, turns=self.turns, requested=self.requested, settings=self.settings, endpoints=described
        )

    async def _close(self) -> None:
        if self._log is not None:
            logging.getLogger("aloe_agents").removeHandler(self._log)
            self._log.close()
        if self._journal is not None:
            self._journal.close()
        if not self._keep_open:
            for endpoint in self.endpoints.values():
                await endpoint.close()

    @property
    def journal(self) -> Journal:
        """The journal. Raises ConfigError in a run that records nothing, or has not been entered."""
        if self._journal is None:
            raise ConfigError("this run has no journal: it lives in memory, or was not entered with 'async with'")
        return self._journal

    def drive(self, work: Stoppable) -> None:
        """Have :meth:`stop` stop ``work``; at once where the run was stopped already."""
        self._driven.append(work)
        if self.stopped:
            work.stop()

    def stop(self) -> None:
        """Ask nothing more. What is in flight lands; the rest is pending, and the same call resumes it."""
        self.stopped = True
        for work in self._driven:
            work.stop()

    def keep(self, tree: Tree) -> None:
        """Take up a tree whose conversation is over. A recorded run reads its trees from the journal."""
        if self._journal is None:
            self._trees.append(tree)

    async def finish(self) -> None:
        """Note that the run came to its end, whatever became of its conversations."""
        if self._journal is not None:
            await self._journal.finish({name: endpoint.slots.peak for name, endpoint in self.endpoints.items()})

    def write_trees(self) -> None:
        """Write ``trees.jsonl`` from the journal."""
        assert self.directory is not None
        self._written = write_trees(self.directory)

    def snapshot(self, finished: bool = False) -> Snapshot:
        """The run at this moment, as far as this process has seen it."""
        return self.progress.snapshot(finished)

    @property
    def damaged(self) -> int:
        """Answers of the journal that were damaged and had to be asked for again."""
        return self.recorder.damaged if self.recorder else 0

    # --- what can be read of it ---

    def trees(self) -> Iterator[Tree]:
        """The trees of all conversations that are over, by id, one at a time in memory. Raises ConfigError where there is
        no run.
        """
        if self.directory is None:
            yield from sorted(self._trees, key=lambda tree: tree.id)
            return
        with contextlib.closing(Reading(self.directory)) as reading:
            yield from reading.trees()

    def table(self) -> list[dict[str, object]]:
        """One record for every answer: ``pandas.DataFrame(run.table())``.

        Columns: conversation, status, path, turn (from 1), label, chosen, user, answer, finish_reason, profile and
        personality (as far as they had been revealed), ``score`` of the only judge or ``score_NAME`` of several, and the
        persona's extra fields as ``persona_NAME``.
        """
        trees = list(self.trees())
        judges = sorted(
            {name for tree in trees for turn in tree.turns for a in turn.answers.values() for name in a.scores}
        )
        columns = {name: "score" if len(judges) == 1 else f"score_{name}" for name in judges}
        return [row for tree in trees for row in _answers(tree, columns)]

    @property
    def accounting(self) -> Accounting:
        """What became of everything that was requested, and what it took."""
        if self.directory is not None:
            with contextlib.closing(Reading(self.directory)) as reading:
                return reading.accounting()
        now = self.progress.snapshot(finished=True)
        return Accounting(
            requested=now.requested,
            completed=now.completed,
            failed=now.failed,
            pending=now.pending,
            finished=not self.stopped,
            calls=now.calls,
            prompt_tokens=sum(tree.usage["prompt_tokens"] for tree in self._trees),
            completion_tokens=sum(tree.usage["completion_tokens"] for tree in self._trees),
            retries=_retries(self.endpoints.values()),
            cost=round(now.cost, 6),
            cached_tokens=sum(used[3] for used in self.progress.roles.values()),
            roles={
                name: Usage(calls=c, prompt_tokens=p, completion_tokens=a, cached_tokens=cached)
                for name, (c, p, a, cached) in sorted(self.progress.roles.items())
            },
            failures=tuple(now.failures),
            gaps=tuple(self.progress.gaps[key] for key in sorted(self.progress.gaps)),
        )

    @property
    def efficiency(self) -> Efficiency | None:
        """The makespan beside its lower bound; None where models took no time, or nothing is recorded."""
        if self.directory is None:
            return None
        with contextlib.closing(Reading(self.directory)) as reading:
            return reading.efficiency()

    def failures(self) -> tuple[FailureRecord, ...]:
        """Why conversations failed: by reason how many, and the first case in its own words, with agent and turn."""
        return self.accounting.failures

    @property
    def unread_judges(self) -> list[str]:
        """The judges none of whose scores could be read."""
        if self._written is not None:
            return self._written.unread
        read: dict[str, bool] = {}
        for answer in (answer for tree in self.trees() for turn in tree.turns for answer in turn.answers.values()):
            for judge, score in answer.scores.items():
                read[judge] = read.get(judge, False) or score is not None
        return sorted(judge for judge, any_read in read.items() if not any_read)

    def _lines(self) -> list[EndpointLine]:
        return [endpoint_line(name, endpoint) for name, endpoint in self.endpoints.items()]


def check_settings(directory: Path, settings: Mapping[str, str], force: bool = False) -> None:
    """Raise ConfigError if ``directory`` cannot hold a run, or holds one with other settings and ``force`` is not given."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is a file, not a directory")
    if not force and (differing := differences(directory, settings)):
        raise OtherSettings(directory, differing)


class OtherSettings(ConfigError):
    """A directory holds a run with other settings; ``differing`` has one line for each setting that differs."""

    def __init__(self, directory: Path, differing: Sequence[str]) -> None:
        super().__init__(
            f"{directory} holds another run: {'; '.join(differing)}. Choose another directory, or force it to go on "
            "in this one (answers to unchanged questions are kept)"
        )
        self.directory, self.differing = directory, tuple(differing)


def describe(endpoint: Endpoint) -> EndpointRecord:
    """An endpoint as the journal describes it."""
    return EndpointRecord(endpoint.name, endpoint.limits.capacity, endpoint.price)


def endpoint_line(name: str, endpoint: Endpoint) -> EndpointLine:
    """An endpoint as it is now."""
    tally = endpoint.tally
    return EndpointLine(
        name,
        endpoint.name,
        endpoint.slots.capacity,
        in_flight=endpoint.slots.taken,
        waiting=endpoint.slots.waiting,
        calls=tally.calls,
        retries=sum(tally.retries.values()),
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        cost=tally.cost,
        paused=endpoint.pause.left,
        trouble=endpoint.breaker.why if endpoint.breaker.open else "",
    )


LIKELY = 256
"""Calls in flight that an endpoint of unknown capacity is likely to take."""


def live_for(endpoints: Iterable[Endpoint]) -> int:
    """How many conversations to hold at once, so that the last ones leave no slot idle: four for each call in flight that
    the endpoints take (or are likely to take), and at least 256.
    """
    return max(256, 4 * sum(endpoint.limits.capacity or LIKELY for endpoint in endpoints))


def _retries(endpoints: Iterable[Endpoint]) -> dict[str, int]:
    found: dict[str, int] = {}
    for endpoint in endpoints:
        for reason, count in endpoint.tally.retries.items():
            found[str(reason)] = found.get(str(reason), 0) + count
    return dict(sorted(found.items()))


def _answers(tree: Tree, columns: Mapping[str, str]) -> Iterator[dict[str, object]]:
    extra = {f"persona_{name}": value for name, value in tree.persona.extra.items()}
    for turn in tree.turns:
        revealed = turn.revealed or {}
        for label, answer in sorted(turn.answers.items()):
            yield {
                "conversation": tree.id,
                "status": tree.status,
                "path": "/".join(turn.path),
                "turn": turn.turn,
                "label": label,
                "chosen": label in turn.chosen,
                "user": turn.user,
                "answer": answer.text,
                "finish_reason": answer.finish_reason,
                "profile": revealed.get("profile"),
                "personality": revealed.get("personality"),
                **{column: answer.scores.get(judge) for judge, column in columns.items()},
                **extra,
            }


__all__ = ["TREES", "OtherSettings", "Run", "Stoppable", "check_settings", "describe", "endpoint_line", "live_for"]
