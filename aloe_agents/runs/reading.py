"""What a run's journal tells: the accounting, the trees, a picture of the moment. It reads the journal, nothing else.

All of it works while the run is going on, from another process, and after its end.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing
from aloe_agents.personas import Persona
from aloe_agents.runs.efficiency import Efficiency, longest_chain
from aloe_agents.runs.journal import JOURNAL_FILE, check_format, open_readonly
from aloe_agents.runs.progress import SHOWN, Dialogue, EndpointLine, Snapshot
from aloe_agents.tree import Entry, Tree, build_tree

TREES = "trees.jsonl"
PIECE = 50_000
"""Rows that are grouped at a time."""
_COUNTS = ("calls", "prompt_tokens", "completion_tokens", "cached_tokens")
_OVER = """SELECT id, persona_id, profile, personality, status, calls, prompt_tokens, completion_tokens
            FROM conversations WHERE status IN ('completed', 'failed') ORDER BY id"""


class Reading:
    """A reader of the run in ``directory``. Raises ConfigError if there is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._connection = open_readonly(directory)
        try:
            row = self._rows("SELECT seed, turns, requested, origin, finished, settings, format FROM run")
            if not row:
                raise ConfigError(f"the run in {directory} has not begun")
            check_format(directory / JOURNAL_FILE, row[0][6])
        except ConfigError:
            self.close()
            raise
        self.seed, self.turns, self.requested, self.origin, self.finished = row[0][:5]
        self.endpoints: dict[str, dict[str, Any]] = orjson.loads(row[0][5])["endpoints"]
        self._shown: dict[str, Dialogue] = {}
        self._pace: tuple[float, int, int] = (0.0, 0, 0)
        self._calls_read = self._attempts_read = 0
        self._usage: dict[tuple[str, str], list[int]] = {}
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
        for id, persona_id, profile, personality, status, calls, prompt, completion in rows:
            persona = Persona(id=persona_id, profile=profile.decode(), personality=personality.decode())
            usage = {"calls": calls, "prompt_tokens": prompt, "completion_tokens": completion}
            yield build_tree(id, self.seed, persona, status, self._said(id), usage)

    def accounting(self) -> dict[str, Any]:
        """What became of everything that was asked for; completed + failed + pending = requested."""
        self._refresh()
        by_status = dict(self._rows("SELECT status, count(*) FROM conversations GROUP BY status"))
        reasons = self._rows("SELECT reason, count(*) FROM conversations WHERE status = 'failed' GROUP BY reason")
        completed, failed = by_status.get("completed", 0), dict(sorted(reasons))
        used = self._used()
        roles: dict[str, dict[str, int]] = {}
        for (_, agent), counts in used.items():
            role = roles.setdefault(agent, dict.fromkeys(_COUNTS, 0))
            for name, count in zip(_COUNTS, counts, strict=True):
                role[name] += count
        attempts = self._attempts()
        retries: dict[str, int] = {}
        for (_, _, reason), count in attempts.items():
            if reason is not None:
                retries[reason] = retries.get(reason, 0) + count
        return {
            "requested": self.requested,
            "completed": completed,
            "failed": failed,
            "pending": self.requested - completed - sum(failed.values()),
            "finished": self.finished is not None,
            **{name: sum(role[name] for role in roles.values()) for name in _COUNTS},
            "retries": dict(sorted(retries.items())),
            "uncertain": sum(count for (_, state, _), count in attempts.items() if state == "uncertain"),
            "cost": round(sum(line.cost for line in self._endpoint_lines()), 6),
            "roles": dict(sorted(roles.items())),
        }

    def efficiency(self) -> Efficiency | None:
        """How near the run, since it was last begun, came to its lower bound; None where models took no time."""
        began = self._rows("SELECT began FROM run")[0][0]
        sql = """SELECT min(queued_at), max(finished_at), total(finished_at - started_at), count(*) FROM attempts
                 WHERE endpoint = ? AND started_at >= ? AND finished_at IS NOT NULL"""
        times = [(name, *self._rows(sql, (name, began))[0]) for name in self.endpoints]
        times = [row[:4] for row in times if row[4] and row[3] / row[4] > 0.001]
        slots = {name: endpoint["capacity"] or endpoint.get("peak") for name, endpoint in self.endpoints.items()}
        if not times or not all(slots[name] for name, *_ in times):
            return None
        work = {name: seconds / slots[name] for name, _, _, seconds in times}
        longest, chain = max(work.values()), 0.0
        held = self._rows(
            """SELECT id, finished_at - started_at FROM conversations WHERE started_at >= ? AND finished_at - started_at > ?
               ORDER BY 2 DESC""",
            (began, longest),
        )
        for conversation, seconds in held:  # no chain is longer than its conversation took: most need no look
            if seconds <= longest:
                break
            chain = max(chain, self._chain(conversation))
            longest = max(longest, chain)
        makespan = max(last for _, _, last, _ in times) - min(first for _, first, _, _ in times)
        return Efficiency(makespan, work, chain)

    def snapshot(self) -> Snapshot:
        """The run now, with the dialogues of two conversations: live ones, or else the last that ended."""
        self._refresh()
        done, live, turns, calls = self._rows(
            """SELECT total(status = 'completed'), total(status = 'running'), total(turns), total(calls)
               FROM conversations"""
        )[0]
        failed = dict(self._rows("SELECT reason, count(*) FROM conversations WHERE status = 'failed' GROUP BY reason"))
        turns += self._rows(
            """SELECT count(*) FROM messages WHERE kind = 'UserSaid' AND conversation IN
               (SELECT id FROM conversations WHERE status = 'running')"""
        )[0][0]
        calls = self._rows("SELECT coalesce(max(number), 0) FROM calls")[0][0]
        now = self.finished if self.finished is not None else time.time() - self.origin
        then, calls_then, turns_then = self._pace if self.finished is None else (0.0, 0, 0)
        over = max(now - then, 1e-9)
        if over > 2.0:
            self._pace = (now, calls, int(turns))
        rate, pace = (calls - calls_then) / over, (turns - turns_then) / over
        pending = self.requested - int(done) - sum(failed.values())
        left = (
            (pending * self.turns - (turns - (int(done) + sum(failed.values())) * self.turns)) / pace if pace else None
        )
        self._follow()
        return Snapshot(
            name=str(self.directory),
            seed=self.seed,
            turns=self.turns,
            requested=self.requested,
            completed=int(done),
            failed=failed,
            live=int(live),
            turns_done=int(turns),
            calls=calls,
            calls_per_second=rate,
            seconds=now,
            seconds_left=None if self.finished is not None or left is None else max(left, 0.0),
            endpoints=self._endpoint_lines(),
            dialogues=list(self._shown.values()),
            finished=self.finished is not None,
        )

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise ConfigError(f"the journal in {self.directory} cannot be read: {error}") from None

    def _refresh(self) -> None:
        self.requested, self.finished, described = self._rows("SELECT requested, finished, settings FROM run")[0]
        self.endpoints = orjson.loads(described)["endpoints"]

    def _said(self, conversation: str) -> list[Entry]:
        rows = self._rows("SELECT path, kind, label, body FROM messages WHERE conversation = ?", (conversation,))
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

    def _used(self) -> dict[tuple[str, str], list[int]]:
        """Calls and tokens by endpoint and agent. Only what is new since the last time is read."""
        newest = self._rows("SELECT coalesce(max(number), 0) FROM calls")[0][0]
        sql = """SELECT endpoint, agent, count(*), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens)
                 FROM calls WHERE number > ? AND number <= ? GROUP BY endpoint, agent"""
        for endpoint, agent, *counts in self._piecewise(sql, self._calls_read, newest):
            known = self._usage.setdefault((endpoint, agent), [0] * len(_COUNTS))
            known[:] = (old + new for old, new in zip(known, counts, strict=True))
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

    def _piecewise(self, sql: str, after: int, last: int) -> Iterator[Any]:
        """The groups of rows numbered ``after`` + 1 to ``last``, so many rows at a time that grouping stays in memory."""
        for start in range(after, last, PIECE):
            yield from self._rows(sql, (start, min(start + PIECE, last)))

    def _endpoint_lines(self) -> list[EndpointLine]:
        lines = {n: EndpointLine(n, e["model"], e["capacity"]) for n, e in self.endpoints.items()}
        for (name, state, _), count in self._attempts().items():
            if (line := lines.get(name)) is not None:
                if state == "sent":
                    line.in_flight += 0 if self.finished is not None else count
                elif state != "answered":
                    line.retries += count
        for (name, _), (calls, prompt, completion, _) in self._used().items():
            if (line := lines.get(name)) is not None:
                line.calls += calls
                line.prompt_tokens += prompt
                line.completion_tokens += completion
                price = self.endpoints[name]["price"]
                line.cost += (prompt * price[0] + completion * price[1]) / 1e6
        return list(lines.values())

    def _follow(self) -> None:
        """Bring the shown dialogues up to date; replace those that are over while others live."""
        for name in [name for name, dialogue in self._shown.items() if dialogue.status != "running"]:
            del self._shown[name]
        if (free := SHOWN - len(self._shown)) > 0:
            rows = self._rows(
                """SELECT id, persona_id, profile, personality FROM conversations WHERE status <> 'pending'
                   ORDER BY status = 'running' DESC, coalesce(finished_at, 0) DESC, started_at DESC LIMIT ?""",
                (free + len(self._shown),),
            )
            for id, persona_id, profile, personality in rows:
                if id not in self._shown and len(self._shown) < SHOWN:
                    persona = Persona(id=persona_id, profile=profile.decode(), personality=personality.decode())
                    self._shown[id] = Dialogue(id, persona)
        for id, dialogue in self._shown.items():
            status = self._rows("SELECT status FROM conversations WHERE id = ?", (id,))[0][0]
            dialogue.nodes.clear()
            for said in sorted(self._said(id), key=lambda said: said.path):
                dialogue.add(*said)
            dialogue.status = status


def write_trees(directory: Path) -> int:
    """Write ``trees.jsonl`` in a run's directory from its journal, whole or not at all. Returns the number of trees."""
    count = 0
    with contextlib.closing(Reading(directory)) as reading, replacing(directory / TREES) as file:
        for tree in reading.trees():
            file.write(tree.to_json() + b"\n")
            count += 1
    return count
