"""What a run's journal tells: the accounting, the trees, a picture of the moment. It reads the journal, nothing else.

All of it works while the run is going on, from another process, and after its end.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.journal import open_readonly
from aloe_agents.personas import Persona
from aloe_agents.progress import SHOWN, Dialogue, EndpointLine, Snapshot
from aloe_agents.tree import Said, Tree, build_tree

_TREES = """SELECT id, persona_id, profile, personality, status, calls, prompt_tokens, completion_tokens
            FROM conversations WHERE status IN ('completed', 'failed') ORDER BY id"""


class Reading:
    """A reader of the run in ``directory``. Raises ConfigError if there is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._connection = open_readonly(directory)
        try:
            row = self._rows("SELECT seed, turns, requested, origin, finished, settings FROM run")
            if not row:
                raise ConfigError(f"the run in {directory} has not begun")
        except ConfigError:
            self.close()
            raise
        self.seed, self.turns, self.requested, self.origin, self.finished = row[0][:5]
        self.endpoints: dict[str, Any] = orjson.loads(row[0][5])["endpoints"]
        self._shown: dict[str, Dialogue] = {}
        self._pace: tuple[float, int, int] = (0.0, 0, 0)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def trees(self) -> Iterator[Tree]:
        """The trees of all conversations that are over, by id; one at a time in memory."""
        try:
            rows = self._connection.execute(_TREES)
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
        calls, prompt, answered, cached = self._rows(
            "SELECT count(*), total(prompt_tokens), total(completion_tokens), total(cached_tokens) FROM calls"
        )[0]
        retries = self._rows("SELECT reason, count(*) FROM attempts WHERE reason IS NOT NULL GROUP BY reason")
        uncertain = self._rows("SELECT count(*) FROM attempts WHERE state = 'uncertain'")[0][0]
        return {
            "requested": self.requested,
            "completed": completed,
            "failed": failed,
            "pending": self.requested - completed - sum(failed.values()),
            "finished": self.finished is not None,
            "calls": calls,
            "retries": dict(sorted(retries)),
            "uncertain": uncertain,
            "prompt_tokens": int(prompt),
            "completion_tokens": int(answered),
            "cached_tokens": int(cached),
            "cost": round(sum(line.cost for line in self._endpoint_lines()), 6),
        }

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
        self.requested, self.finished = self._rows("SELECT requested, finished FROM run")[0]

    def _said(self, conversation: str) -> list[Said]:
        rows = self._rows("SELECT path, kind, label, body FROM messages WHERE conversation = ?", (conversation,))
        return [Said(tuple(orjson.loads(path)), kind, label, orjson.loads(body)) for path, kind, label, body in rows]

    def _endpoint_lines(self) -> list[EndpointLine]:
        sent = self._rows("SELECT endpoint, state, count(*) FROM attempts GROUP BY endpoint, state")
        used = self._rows(
            "SELECT endpoint, count(*), total(prompt_tokens), total(completion_tokens) FROM calls GROUP BY endpoint"
        )
        lines = {n: EndpointLine(n, e["model"], e["capacity"]) for n, e in self.endpoints.items()}
        for name, state, count in sent:
            if (line := lines.get(name)) is not None:
                if state == "sent":
                    line.in_flight = 0 if self.finished is not None else count
                elif state != "answered":
                    line.retries += count
        for name, calls, prompt, completion in used:
            if (line := lines.get(name)) is not None:
                line.calls, line.prompt_tokens, line.completion_tokens = calls, int(prompt), int(completion)
                price = self.endpoints[name]["price"]
                line.cost = (prompt * price[0] + completion * price[1]) / 1e6
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
    reading = Reading(directory)
    partial = directory / "trees.jsonl.partial"
    count = 0
    try:
        with open(partial, "wb") as file:
            for tree in reading.trees():
                file.write(tree.to_json() + b"\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, directory / "trees.jsonl")
    finally:
        reading.close()
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return count
