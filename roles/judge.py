"""The judge: hears an answer, scores how well it suits the full persona, 1 to 5 (paper, section 3, B.3)."""

from __future__ import annotations

import math
import re
from typing import Any

import orjson

from aloe_agents import prompts
from aloe_agents.engine.agent import Scene
from aloe_agents.errors import CallFailed, FailureReason
from aloe_agents.messages import Answered, Scored, UserSaid
from aloe_agents.model import ChatMessage, ChatModel, Completion

_SCORE = re.compile(r"\s*([1-5])(?:\.0)?\s*\.?\s*")
_DIGIT = re.compile(r"\s*[1-5]\s*")


class Judge:
    """Sees the full persona, the user's message and one answer. A score that cannot be read is asked for again, and
    is missing (None) after that: never guessed.

    It is told neither which model answered nor at which turn, and sees one answer at a time. ``expected`` makes the
    score the expectation over the digits 1 to 5 by the probabilities that the model gave them, where it gives any; the
    answer must be a score all the same. Several judges with names of their own make a panel.
    """

    hears = (Answered,)
    says = (Scored,)
    essential = False

    def __init__(
        self, model: ChatModel, prompt: str = "judge", attempts: int = 3, name: str = "judge", expected: bool = False
    ) -> None:
        self.model = model
        self.name = name
        self.prompt = prompts.load(prompt, {"profile", "personality", "message", "answer"}, {"system", "user", "again"})
        self.attempts = attempts
        self.sampling: dict[str, Any] = {"logprobs": True, "top_logprobs": 20} if expected else {}

    async def respond(self, heard: Answered, scene: Scene) -> Scored:
        fields = {
            "profile": scene.persona.profile,
            "personality": scene.persona.personality,
            "message": (await scene.need(UserSaid)).text,
            "answer": heard.text,
        }
        messages: list[ChatMessage] = [self.prompt.fill("system", **fields), self.prompt.fill("user", **fields)]
        for _ in range(self.attempts):
            verdict = await self._ask(scene, messages)
            if (score := parse_score(verdict.text)) is not None:
                mean = expected_score(verdict.raw) if self.sampling else None
                return Scored.of(heard, judge=self.name, score=score if mean is None else mean)
            again = self.prompt.fill("again", **fields)
            messages = [*messages[:2], {"role": "assistant", "content": verdict.text}, again]
        return Scored.of(heard, judge=self.name, score=None)

    async def _ask(self, scene: Scene, messages: list[ChatMessage]) -> Completion:
        if self.sampling:
            try:
                return await scene.ask(self.model, messages, **self.sampling)
            except CallFailed as failed:  # some servers refuse to be asked for probabilities: then the digit counts
                if failed.reason is not FailureReason.REFUSED_REQUEST:
                    raise
        return await scene.ask(self.model, messages)


def parse_score(text: str) -> int | None:
    """The score that ``text`` is, 1 to 5; None for anything but a bare number."""
    match = _SCORE.fullmatch(text)
    return int(match[1]) if match else None


def expected_score(raw: bytes) -> float | None:
    """The mean of the digits 1 to 5, weighted by their probabilities at the place of the first one; None where the
    answer, a chat completion as it came, has none.
    """
    try:
        tokens = orjson.loads(raw)["choices"][0]["logprobs"]["content"]
        for token in tokens:
            if _DIGIT.fullmatch(token["token"]):
                likely: dict[int, float] = {}
                for other in token["top_logprobs"]:
                    if _DIGIT.fullmatch(other["token"]):
                        digit = int(other["token"])
                        likely[digit] = likely.get(digit, 0.0) + math.exp(other["logprob"])
                total = sum(likely.values())
                return round(sum(digit * weight for digit, weight in likely.items()) / total, 6) if total else None
    except (ValueError, TypeError, KeyError, IndexError):
        pass
    return None
