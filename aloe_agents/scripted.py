"""A stand-in for a language model: tables and rules that answer the built-in prompts, the same way every time.

1. A reply is a pure function of the seeds and the messages. Its draws are bytes of a BLAKE2b digest of both.
2. The part to be played is read off the tags of the prompt: a persona alone is to be played, one with a
   ``<conversation>`` compared with it, one with an ``<answer>`` judged against it; ``<revealed>`` asks for an answer
   to somebody known, and a prompt without tags for an answer that could be written to anybody.
3. A profile is cut into facts: its sentences, and their clauses where the grammar is plain. A fact is kept in the
   profile's words and turned round into what its owner says (She has -> I have) and is told (you have).
4. Style is a table: a trait has words by which a personality names it, markers that a user with it drops, and
   markers of an answer that suits it.

It understands nothing, knows no language but its tables' English, and counts four characters as a token. Text that
the rules do not fit is said as it stands. No input makes it raise, and its work grows with the input's length alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aloe_agents.model import Call, ChatMessage, Completion

T = TypeVar("T")

READ, LONGEST, MOST = 12_000, 240, 48
"""Of a persona's text: the characters that are read, those of the longest fact, and the number of facts kept."""


@dataclass(frozen=True, slots=True)
class Trait:
    """How a trait sounds: in what its owner says, and in an answer that suits the owner."""

    said: tuple[str, ...]
    suits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a profile says: in its own words, as its owner says it, and as its owner is told it."""

    sentence: str
    text: str
    said: str
    told: str
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Persona:
    """What is made of a persona's two texts: the facts of each sentence, and each telling sentence's trait."""

    sentences: tuple[tuple[Fact, ...], ...]
    manner: tuple[tuple[str, Trait], ...]


@dataclass(frozen=True, slots=True)
class ScriptedModel:
    """The stand-in as a :class:`~aloe_agents.model.ChatModel`. ``latency`` is slept through in every call, in seconds.

    ``seed`` makes another model of it, which then deserves another ``name``: journals tell models apart by name.
    """

    name: str = "scripted"
    latency: float = 0.0
    seed: int = 0

    async def chat(self, call: Call) -> Completion:
        if self.latency > 0:
            await asyncio.sleep(self.latency)
        return complete(call.messages, call.sampling, self.seed)


def complete(messages: Sequence[ChatMessage], sampling: Mapping[str, Any], seed: int = 0) -> Completion:
    """The reply with what a server adds: ``stop`` and ``max_tokens`` obeyed, tokens estimated at four characters."""
    text = reply(messages, f"{seed} {sampling.get('seed')}")
    stop = sampling.get("stop") or ()
    for ending in (stop,) if isinstance(stop, str) else stop:
        text = text.partition(ending)[0] if ending else text
    limit = sampling.get("max_completion_tokens") or sampling.get("max_tokens")
    cut = limit is not None and len(text) > 4 * limit
    text = text[: 4 * limit] if cut and limit else text
    return Completion(
        text=text,
        finish_reason="length" if cut else "stop",
        prompt_tokens=sum(tokens(message["content"]) + 4 for message in messages),
        completion_tokens=tokens(text),
    )


def tokens(text: str) -> int:
    """An estimate of the tokens of ``text``."""
    return (len(text) + 3) // 4


def reply(messages: Sequence[ChatMessage], seed: int | str = 0) -> str:
    """What the stand-in says to ``messages``."""
    system = messages[0]["content"] if messages and messages[0]["role"] != "user" else ""
    heard = [message["content"] for message in messages if message["role"] == "user"] or [""]
    within = "<profile>" in system
    frame, asked = (system, heard[0]) if within else (heard[0], heard[0].rpartition("</personality>")[2])
    if "<profile>" in frame and "<personality>" in frame:
        head, _, tail = frame.rpartition("<personality>")
        profile = head.partition("<profile>")[2].rpartition("</profile>")[0]
        persona = _persona(profile, tail.rpartition("</personality>")[0])
        answer, conversation = asked.rfind("</answer>"), asked.rfind("</conversation>")
        if answer > conversation:  # whatever the quoted text holds, the tag that encloses it closes last
            return judge(persona, asked[:answer].rpartition("<answer>")[2])
        if conversation >= 0:
            return _induce(persona, asked[:conversation].partition("<conversation>")[2])
        own = [message["content"] for message in messages if message["role"] == "assistant"]
        return _play(persona, own, heard[-1], _dice(messages, seed))
    message, tag, hint = heard[-1].rpartition("<revealed>")
    if tag:
        return _tailor(message, hint.rpartition("</revealed>")[0], _dice(messages, seed))
    return _anybody(_dice(messages, seed))
