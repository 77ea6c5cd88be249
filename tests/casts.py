"""Casts, models and personas that several tests use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from aloe_agents.engine.agent import Agent, Scene
from aloe_agents.messages import Answered, Message, Scored, UserSaid
from aloe_agents.model import Call, ChatModel, Completion
from aloe_agents.personas import Persona
from aloe_agents.roles import Induction, Judge, Preferred, Rejected, RolePlayer


def people(count: int) -> list[Persona]:
    return [
        Persona(id=f"p{n:05d}", profile=f"She is number {n}. She has {n} cats.", personality="She is blunt.")
        for n in range(count)
    ]


class Digest:
    """A model whose answer is a digest of the prompt, in the form that each role asks for."""

    name = "digest"

    async def chat(self, call: Call) -> Completion:
        word = hashlib.sha256(repr(call.messages).encode()).hexdigest()[:8]
        last = call.messages[-1]["content"]
        if "<conversation>" in last:
            text = f"Profile: {word}\nPersonalities: None"
        elif "<answer>" in last:
            text = str(1 + int(word, 16) % 5)
        else:
            text = f"says {word}"
        return Completion(text=text, prompt_tokens=len(repr(call.messages)), completion_tokens=len(text))


def paper_cast(model: ChatModel) -> list[Agent]:
    """The four agents of the paper."""
    return [RolePlayer(model), Induction(model), Preferred(model), Rejected(model)]


@dataclass(frozen=True, kw_only=True)
class Noticed(Message):
    verdict: str


class Critic:
    name = "critic"
    hears = (Answered,)
    essential = False

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    async def respond(self, heard: Answered, scene: Scene) -> Noticed:
        verdict = await scene.ask(self.model, [{"role": "user", "content": f"flag? {heard.text}"}])
        return Noticed(verdict=f"{verdict.text} {scene.rng.random():.3f}")


@dataclass(frozen=True, kw_only=True)
class Compared(Message):
    better: str
    scores: tuple[float | None, float | None]


class Pairwise:
    """Joins both answers and both scores of a node before it asks."""

    name = "pairwise"
    hears = (UserSaid,)
    essential = False

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    async def respond(self, heard: UserSaid, scene: Scene) -> Compared:
        one = await scene.need(Answered, "preferred")
        other = await scene.need(Answered, "rejected")
        scores = [
            (await scene.need(Scored, Scored.label_of(label, "judge"))).score for label in (one.label, other.label)
        ]
        asked = await scene.ask(self.model, [{"role": "user", "content": f"{one.text} or {other.text}?"}])
        return Compared(better=asked.text, scores=(scores[0], scores[1]))


def full_cast(model: ChatModel) -> list[Agent]:
    """The paper's four with a judge, a critic and a pairwise judge that joins."""
    return [*paper_cast(model), Judge(model), Critic(model), Pairwise(model)]
