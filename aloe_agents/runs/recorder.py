"""Resume is replay: every call is answered from the journal if it is there, else asked and committed before use.

A conversation that is done again from its start meets its own answers under their keys, takes the same path (its
draws depend on seed and address alone), and pays only for what the journal does not hold. There is no other
resume mechanism and no checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from aloe_agents.engine.bus import Question
from aloe_agents.engine.conversation import Conversation
from aloe_agents.errors import Fatal
from aloe_agents.messages import CallFinished, ConversationEnded, ConversationStarted, Message
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.runs.journal import Journal, Statement, answer_digest

_START = """INSERT INTO conversations (id, persona, status, started_at)
            VALUES (?, ?, 'running', ?) ON CONFLICT (id) DO UPDATE SET status = 'running', reason = NULL,
            persona = excluded.persona, started_at = excluded.started_at"""
END = """UPDATE conversations SET status = ?, reason = ?, turns = ?, calls = ?, prompt_tokens = ?,
          completion_tokens = ?, finished_at = ? WHERE id = ?"""
_RECALL = """SELECT key, response, digest, text, finish_reason, prompt_tokens, completion_tokens, cached_tokens
             FROM calls WHERE conversation = ?"""


@dataclass(slots=True)
class PastConversation:
    """A conversation as the journal has it."""

    status: str
    reason: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    said: dict[str, Any] = field(default_factory=dict)
    """Bodies of messages, by kind."""


@dataclass(slots=True)
class Recorder:
    """The memo of calls in front of the models, and the observer that writes down what is said."""

    journal: Journal
    alone: bool = True
    """Whether no other recorder writes to the journal: who is one of many takes no stock."""
    damaged: int = 0
    """Answers whose digest did not match; they are asked again."""
    _memo: dict[str, dict[bytes, Completion]] = field(default_factory=dict)
    _attempts: dict[bytes, int] = field(default_factory=dict)

    async def prepare(self) -> set[str]:
        """Take stock of what an earlier process left. Returns the ids of the completed conversations."""
        if self.journal.fresh or not self.alone:
            return set()
        await self.journal.commit(("UPDATE attempts SET state = 'uncertain' WHERE state = 'sent'", ()))
        self._attempts = dict(
            await self.journal.query("SELECT key, max(n) FROM attempts WHERE state <> 'answered' GROUP BY key")
        )
        return {row[0] for row in await self.journal.query("SELECT id FROM conversations WHERE status = 'completed'")}

    async def held(self, *kinds: str) -> dict[str, PastConversation]:
        """The conversations that the journal knows, by id, with what of these kinds was said first in each."""
        if self.journal.fresh:
            return {}
        rows = await self.journal.query(
            """SELECT id, status, coalesce(reason, ''), coalesce(calls, 0), coalesce(prompt_tokens, 0),
               coalesce(completion_tokens, 0) FROM conversations"""
        )
        held = {id: PastConversation(*row) for id, *row in rows}
        marks = ", ".join("?" * len(kinds))
        sql = f"SELECT conversation, kind, body FROM messages WHERE kind IN ({marks})"
        for id, kind, body in await self.journal.query(sql, kinds):
            held[id].said.setdefault(kind, orjson.loads(body))
        return held

    async def begin(self, conversation: Conversation) -> None:
        """A conversation starts, perhaps once more: fetch its answers, forget its messages."""
        if self.journal.fresh:
            return
        self.journal.post(("DELETE FROM messages WHERE conversation = ?", (conversation.id,)))
        memo = self._memo[conversation.id] = {}
        for key, response, digest, text, *rest in await self.journal.query(_RECALL, (conversation.id,)):
            if answer_digest(response or b"", text) == digest:
                memo[key] = Completion(
                    text=text.decode(),
                    raw=response or b"",
                    finish_reason=rest[0],
                    prompt_tokens=rest[1],
                    completion_tokens=rest[2],
                    cached_tokens=rest[3],
                )
            else:
                self.damaged += 1
                self.journal.post(("DELETE FROM calls WHERE conversation = ? AND key = ?", (conversation.id, key)))

    def finish(self, conversation: Conversation) -> None:
        """A conversation is over; nothing of it is kept in memory."""
        self._memo.pop(conversation.id, None)

    async def record(self, model: ChatModel, call: Call, slot: Question) -> tuple[Completion, bool]:
        """Answer ``call`` from the journal, or ask ``model`` and commit what it says before anybody sees it."""
        key = bytes.fromhex(call.key)
        if (known := self._memo.get(call.conversation, {}).get(key)) is not None:
            return known, True
        log = _Attempts(self, key)
        call.log = log
        completion = await model.chat(call)
        await self.journal.commit(*log.answered(), _call_row(key, slot, model.name, completion, log))
        return completion, False

    def observe(self, message: Message, sender: str) -> None:
        """Write down what is said; an observer of the bus. Raises Fatal for what it cannot: nothing is left out."""
        try:
            if (statement := self._statement(message, sender)) is not None:
                self.journal.post(statement)
        except (TypeError, ValueError) as error:
            what = f"{type(message).__name__} of {message.conversation!r}"
            raise Fatal(f"the journal cannot hold {what}: {error}") from None

    def _statement(self, message: Message, sender: str) -> Statement | None:
        now, conversation = self.journal.now(), message.conversation
        match message:
            case CallFinished():  # in the table of calls
                return None
            case ConversationStarted(persona=persona):
                return _START, (conversation, orjson.dumps(persona.to_json()), now)
            case ConversationEnded(status=status, reason=reason, turns=turns, calls=calls):
                tokens = (message.prompt_tokens, message.completion_tokens)
                return END, (status, reason or None, turns, calls, *tokens, now, conversation)
            case _:
                path, body = orjson.dumps(message.path), orjson.dumps(message.body(), default=str)
                return "messages", (conversation, path, type(message).__name__, message.label, sender, body)


@dataclass(slots=True)
class _Attempts:
    """The sendings of one call, as an endpoint reports them."""

    recorder: Recorder
    key: bytes
    endpoint: str = ""
    id: int = 0
    n: int = 0
    queued: float = 0.0
    started: float | None = None
    finished: float | None = None

    async def sent(self, endpoint: str, queued: float) -> None:
        recorder, journal = self.recorder, self.recorder.journal
        self.endpoint, self.started, self.finished = endpoint, journal.now(), None
        self.queued = self.started - queued
        self.id = journal.number()
        self.n = recorder._attempts[self.key] = recorder._attempts.get(self.key, 0) + 1
        await journal.commit(self._row("sent"))
        self.started = journal.now()  # the wait for the disk is no model's time

    def failed(self, reason: str, *, uncertain: bool) -> None:
        self.finished = self.recorder.journal.now()
        self.recorder.journal.post(self._row("uncertain" if uncertain else "failed", reason))

    def answered(self) -> Iterable[Statement]:
        if self.id:
            self.finished = self.recorder.journal.now()
            self.recorder._attempts.pop(self.key, None)
            yield self._row("answered")

    def _row(self, state: str, reason: str | None = None) -> Statement:
        times = (self.queued, self.started, self.finished)
        return "attempts", (self.id, self.key, self.n, state, reason, self.endpoint, *times)


def _call_row(key: bytes, slot: Question, model: str, completion: Completion, log: _Attempts) -> Statement:
    kind, path, label = slot.heard
    text = completion.text.encode()
    return "calls", (
        slot.conversation,
        key,
        orjson.dumps(path),
        slot.agent,
        kind,
        label,
        slot.nth,
        log.endpoint,
        model,
        completion.finish_reason,
        completion.prompt_tokens,
        completion.completion_tokens,
        completion.cached_tokens,
        log.started,
        log.finished,
        answer_digest(completion.raw, text),
        completion.raw or None,
        text,
    )
