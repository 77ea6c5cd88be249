"""What a run's journal tells: the accounting, the trees, a picture of the moment. It reads the journal, nothing else.

All of it works while the run is going on, from another process, and after its end.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing
from aloe_agents.personas import Persona
from aloe_agents.runs.efficiency import Efficiency, longest_chain
from aloe_agents.runs.journal import (
    JOURNAL_FILE,
    EndpointRecord,
    Row,
    RunRow,
    SQLValue,
    check_format,
    open_readonly,
    run_row,
)
from aloe_agents.runs.progress import (
    SHOWN,
    WINDOW,
    Dialogue,
    EndpointLine,
    Snapshot,
    expected_turns,
    seconds_left,
)
from aloe_agents.runs.records import Accounting, FailureRecord, Usage
from aloe_agents.tree import Entry, Tree, build_tree, cause_of

TREES = "trees.jsonl"
PIECE = 50_000
"""Rows that are grouped at a time."""
_OVER = """SELECT id, persona, status, reason, calls, prompt_tokens, completion_tokens
            FROM conversations WHERE status IN ('completed', 'failed') ORDER BY id"""
_REASONS = """SELECT reason, count(*), id, min(coalesce(finished_at, 0)) FROM conversations WHERE status = 'failed'
              GROUP BY reason ORDER BY reason"""
_GAPS = """SELECT json_extract(CAST(body AS TEXT), '$.agent'), json_extract(CAST(body AS TEXT), '$.reason'), count(*),
           min(sequence) FROM messages WHERE kind = 'Failed' AND (NOT json_extract(CAST(body AS TEXT), '$.essential')
           OR conversation IN (SELECT id FROM conversations WHERE status = 'completed'))
           GROUP BY 1, 2 ORDER BY 1, 2"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """What :func:`write_trees` wrote."""

    count: int
    scores: Mapping[str, tuple[int, int]]
    """By judge: scores that could be read, and scores that could not."""

    @property
    def unread(self) -> list[str]:
        """The judges none of whose scores could be read."""
        return sorted(judge for judge, (read, missing) in self.scores.items() if missing and not read)


class Reading:
    """A reader of the run in ``directory``. Raises ConfigError if there is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._connection = open_readonly(directory)
        try:
            if (row := self._run_row()) is None:
                raise ConfigError(f"the run in {directory} has not begun")
            check_format(directory / JOURNAL_FILE, row.format)
        except ConfigError:
            self.close()
            raise
        self.seed, self.turns, self.origin, self.began = row.seed, row.turns, row.origin, row.began
        self.requested, self.finished = row.requested, row.finished
        self.settings, self.endpoints = _described(row)
        self._shown: dict[str, Dialogue] = {}
        self._pace: deque[tuple[float, int, int]] = deque(maxlen=64)
        self._failures: tuple[FailureRecord, ...] = ()
        self._calls_read = self._attempts_read = 0
        self._usage: dict[tuple[str, str], Usage] = {}
        self._settled: Counter[tuple[str, str, str | None]] = Counter()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def trees(self) -> Iterator[Tree]:
        """The trees of all conversations that are over, by id; one at a time in memory."""
        try:
            rows = self._connection.execute(_OVER)
        except sqlite3.Error as error:
            raise ConfigError(f"the journal in {self.directory} cannot be read: {error}") from None
        for id, persona, status, reason, calls, prompt, completion in rows:
            usage = {"calls": calls, "prompt_tokens": prompt, "completion_tokens": completion}
            yield build_tree(id, self.seed, _persona(persona), status, self._said(id), usage, reason or "")

    def first_answer(self, agent: str) -> str | None:
        """The text of the first answer that a model gave to ``agent``; None where there is none."""
        rows = self._rows("SELECT text FROM calls WHERE agent = ? ORDER BY number LIMIT 1", (agent,))
        return rows[0][0].decode() if rows else None

    def accounting(self) -> Accounting:
        """What became of everything that was requested; completed + failed + pending = requested."""
        self._refresh()
        by_status: dict[str, int] = dict(self._rows("SELECT status, count(*) FROM conversations GROUP BY status"))
        failures = self.failures()
        completed, failed = by_status.get("completed", 0), {failure.reason: failure.count for failure in failures}
        roles: dict[str, Usage] = {}
        for (_, agent), usage in self._used().items():
            roles[agent] = roles.get(agent, Usage()) + usage
        retries: Counter[str] = Counter()
        uncertain = 0
        for (_, state, reason), count in self._attempts().items():
            uncertain += count if state == "uncertain" else 0
            if reason is not None:
                retries[reason] += count
        total = sum(roles.values(), Usage())
        return Accounting(
            requested=self.requested,
            completed=completed,
            failed=failed,
            pending=self.requested - completed - sum(failed.values()),
            finished=self.finished is not None,
            calls=total.calls,
            prompt_tokens=total.prompt_tokens,
            completion_tokens=total.completion_tokens,
            cached_tokens=total.cached_tokens,
            retries=dict(sorted(retries.items())),
            uncertain=uncertain,
            cost=round(sum(line.cost for line in self._endpoint_lines()), 6),
            roles=dict(sorted(roles.items())),
            failures=failures,
            gaps=self.gaps(),
        )

    def failures(self) -> tuple[FailureRecord, ...]:
        """Why conversations failed, by reason; each with the first case, in its own words."""
        rows = self._rows(_REASONS)
        known = {failure.reason: failure for failure in self._failures}
        found = []
        for reason, count, id, _ in rows:
            if (before := known.get(reason)) is not None and before.conversation == id:
                found.append(replace(before, count=count))
            else:
                cause = cause_of(reason, (entry for entry in self._said(id, "Failed")))
                found.append(FailureRecord(**cause._asdict(), count=count, conversation=id))
        self._failures = tuple(found)
        return self._failures

    def gaps(self) -> tuple[FailureRecord, ...]:
        """What agents failed to say in conversations that went on all the same, by agent and reason, each with the first case:
        inessential agents, and essential ones where it concerned an answer that was not chosen.
        """
        found = []
        for agent, reason, count, first in self._rows(_GAPS):
            sql = "SELECT conversation, path, body FROM messages WHERE sequence = ?"
            conversation, path, body = self._rows(sql, (first,))[0]
            error, turn = orjson.loads(body)["error"], len(orjson.loads(path)) + 1
            found.append(
                FailureRecord(
                    reason=reason, count=count, error=error, agent=agent, turn=turn, conversation=conversation
                )
            )
        return tuple(found)

    def efficiency(self) -> Efficiency | None:
        """How near the run, since it was last begun, came to its lower bound; None where models took no time."""
        sql = """SELECT min(queued_at), max(finished_at), total(finished_at - started_at), count(*) FROM attempts
                 WHERE endpoint = ? AND started_at >= ? AND finished_at IS NOT NULL"""
        begun, ended, work = [], [], {}
        for name, endpoint in self.endpoints.items():
            first, last, seconds, count = self._rows(sql, (name, self.began))[0]
            if not count or seconds / count <= 0.001:
                continue
            if not (slots := endpoint.capacity or endpoint.peak):
                return None
            begun.append(first)
            ended.append(last)
            work[name] = seconds / slots
        if not work:
            return None
        return Efficiency(max(ended) - min(begun), work, self._longest_chain(max(work.values())))

    def _longest_chain(self, least: float) -> float:
        """Seconds of the longest chain of calls in one conversation; 0.0 where none is longer than ``least``."""
        held = self._rows(
            """SELECT id, finished_at - started_at FROM conversations WHERE started_at >= ? AND finished_at - started_at > ?
               ORDER BY 2 DESC""",
            (self.began, least),
        )
        chain = 0.0
        for conversation, seconds in held:  # no chain is longer than its conversation took: most need no look
            if seconds <= max(least, chain):
                break
            chain = max(chain, self._chain(conversation))
        return chain

    def snapshot(self) -> Snapshot:
        """The run now, with the dialogues of two conversations: live ones, or else the last that ended."""
        self._refresh()
        completed, failed, live, ended_turns = self._rows(
            """SELECT total(status = 'completed'), total(status = 'failed'), total(status = 'running'),
               total(CASE WHEN status IN ('completed', 'failed') THEN turns END) FROM conversations"""
        )[0]
        live_turns = self._rows(
            """SELECT count(*) FROM messages WHERE kind = 'UserSaid' AND conversation IN
               (SELECT id FROM conversations WHERE status = 'running')"""
        )[0][0]
        calls = self._rows("SELECT coalesce(max(number), 0) FROM calls")[0][0]
        now = self.finished if self.finished is not None else time.time() - self.origin
        turns = int(ended_turns + live_turns)
        over, calls_then, turns_then = self._window(now, calls, turns)
        failures = list(self.failures())
        self._follow()
        made = Snapshot(
            name=str(self.directory),
            seed=self.seed,
            turns=self.turns,
            requested=self.requested,
            completed=int(completed),
            failed={failure.reason: failure.count for failure in failures},
            failures=failures,
            live=int(live),
            turns_done=turns,
            turns_expected=expected_turns(self.requested, self.turns, int(completed + failed), ended_turns),
            calls=calls,
            calls_per_second=(calls - calls_then) / over,
            seconds=now,
            endpoints=self._endpoint_lines(),
            dialogues=list(self._shown.values()),
            finished=self.finished is not None,
        )
        made.seconds_left = seconds_left(made, (turns - turns_then) / over)
        return made

    def _window(self, now: float, calls: int, turns: int) -> tuple[float, int, int]:
        """Seconds since the window's beginning, and the calls and turns that there were then. Before looks reach back far
        enough, the window is the run since it was last begun.
        """
        self._pace.append((now, calls, turns))
        then, calls_then, turns_then = next((look for look in self._pace if look[0] > now - WINDOW), self._pace[0])
        if self.finished is not None or now - then < 2.0:
            then, calls_then, turns_then = (0.0 if self.finished is not None else self.began), 0, 0
        return max(now - then, 1e-9), calls_then, turns_then

    def _rows(self, sql: str, parameters: tuple[SQLValue, ...] = ()) -> list[Row]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise ConfigError(f"the journal in {self.directory} cannot be read: {error}") from None

    def _refresh(self) -> None:
        if (row := self._run_row()) is not None:
            self.requested, self.finished, self.began = row.requested, row.finished, row.began
            self.settings, self.endpoints = _described(row)

    def _run_row(self) -> RunRow | None:
        try:
            return run_row(self._connection)
        except sqlite3.Error as error:
            raise ConfigError(f"cannot read the journal in {self.directory}: {error}") from None

    def _said(self, conversation: str, kind: str | None = None) -> list[Entry]:
        sql = "SELECT path, kind, label, body FROM messages WHERE conversation = ?"
        rows = (
            self._rows(sql, (conversation,))
            if kind is None
            else self._rows(f"{sql} AND kind = ?", (conversation, kind))
        )
        return [Entry(tuple(orjson.loads(path)), kind, label, orjson.loads(body)) for path, kind, label, body in rows]

    def _chain(self, conversation: str) -> float:
        calls = self._rows(
            "SELECT agent, kind, path, label, finished_at - started_at FROM calls WHERE conversation = ?",
            (conversation,),
        )
        said = self._rows("SELECT kind, path, label, sender FROM messages WHERE conversation = ?", (conversation,))
        return longest_chain(
            (
                (agent, (kind, tuple(orjson.loads(path)), label), seconds or 0.0)
                for agent, kind, path, label, seconds in calls
            ),
            {(kind, tuple(orjson.loads(path)), label): sender for kind, path, label, sender in said},
        )

    def _used(self) -> dict[tuple[str, str], Usage]:
        """Calls and tokens by endpoint and agent. Only what is new since the last time is read."""
        newest = self._rows("SELECT coalesce(max(number), 0) FROM calls")[0][0]
        sql = """SELECT endpoint, agent, count(*), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens)
                 FROM calls WHERE number > ? AND number <= ? GROUP BY endpoint, agent"""
        for endpoint, agent, *counts in self._piecewise(sql, self._calls_read, newest):
            used = Usage(calls=counts[0], prompt_tokens=counts[1], completion_tokens=counts[2], cached_tokens=counts[3])
            self._usage[endpoint, agent] = self._usage.get((endpoint, agent), Usage()) + used
        self._calls_read = newest
        return self._usage

    def _attempts(self) -> Counter[tuple[str, str, str | None]]:
        """Attempts by endpoint, state and reason. Those before the oldest that is under way are read once."""
        sql = "SELECT endpoint, state, reason, count(*) FROM attempts WHERE id > ? AND id <= ? GROUP BY 1, 2, 3"
        newest = self._rows("SELECT coalesce(max(id), 0) FROM attempts")[0][0]
        sent = "SELECT min(id) FROM attempts WHERE id > ? AND state = 'sent'"
        open_from = self._rows(sent, (self._attempts_read,))[0][0]
        settled = newest if open_from is None else open_from - 1
        for *group, count in self._piecewise(sql, self._attempts_read, settled):
            self._settled[tuple(group)] += count
        self._attempts_read = settled
        return self._settled + Counter({tuple(group): count for *group, count in self._rows(sql, (settled, newest))})

    def _piecewise(self, sql: str, after: int, last: int) -> Iterator[Row]:
        """The groups of rows numbered ``after`` + 1 to ``last``, so many rows at a time that grouping stays in memory."""
        for start in range(after, last, PIECE):
            yield from self._rows(sql, (start, min(start + PIECE, last)))

    def _endpoint_lines(self) -> list[EndpointLine]:
        lines = {n: EndpointLine(n, e.model, e.capacity) for n, e in self.endpoints.items()}
        for (name, state, _), count in self._attempts().items():
            if (line := lines.get(name)) is not None:
                if state == "sent":
                    line.in_flight += 0 if self.finished is not None else count
                elif state != "answered":
                    line.retries += count
        for (name, _), used in self._used().items():
            if (line := lines.get(name)) is not None:
                line.calls += used.calls
                line.prompt_tokens += used.prompt_tokens
                line.completion_tokens += used.completion_tokens
                price = self.endpoints[name].price
                line.cost += (used.prompt_tokens * price[0] + used.completion_tokens * price[1]) / 1e6
        return list(lines.values())

    def _follow(self) -> None:
        """Bring the shown dialogues up to date; replace those that are over while others live."""
        for name in [name for name, dialogue in self._shown.items() if dialogue.status != "running"]:
            del self._shown[name]
        if (free := SHOWN - len(self._shown)) > 0:
            rows = self._rows(
                """SELECT id, persona FROM conversations WHERE status <> 'pending'
                   ORDER BY status = 'running' DESC, coalesce(finished_at, 0) DESC, started_at DESC LIMIT ?""",
                (free + len(self._shown),),
            )
            for id, persona in rows:
                if id not in self._shown and len(self._shown) < SHOWN:
                    self._shown[id] = Dialogue(id, _persona(persona))
        for id, dialogue in self._shown.items():
            status = self._rows("SELECT status FROM conversations WHERE id = ?", (id,))[0][0]
            dialogue.nodes.clear()
            for said in sorted(self._said(id), key=lambda said: said.path):
                dialogue.add(*said)
            dialogue.status = status


def write_trees(directory: Path) -> Trees:
    """Write ``trees.jsonl`` in a run's directory from its journal, whole or not at all."""
    count = 0
    scores: dict[str, tuple[int, int]] = {}
    with contextlib.closing(Reading(directory)) as reading, replacing(directory / TREES) as file:
        for tree in reading.trees():
            file.write(tree.to_json() + b"\n")
            count += 1
            for answer in (answer for turn in tree.turns for answer in turn.answers.values()):
                for judge, score in answer.scores.items():
                    read, missing = scores.get(judge, (0, 0))
                    scores[judge] = (read + (score is not None), missing + (score is None))
    return Trees(count=count, scores=scores)


def _described(row: RunRow) -> tuple[dict[str, str], dict[str, EndpointRecord]]:
    """Settings and endpoints, by name."""
    described = orjson.loads(row.settings)
    endpoints = {
        name: EndpointRecord(e["model"], e["capacity"], (e["price"][0], e["price"][1]), e.get("peak"))
        for name, e in described["endpoints"].items()
    }
    return described["settings"], endpoints


def _persona(stored: bytes) -> Persona:
    return Persona.from_json(orjson.loads(stored))
