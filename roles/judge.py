"""The judge: hears an answer and scores how well it suits the full persona (paper, section 3, B.3)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import overload

import orjson

from aloe_agents import prompts
from aloe_agents.engine.agent import Scene
from aloe_agents.errors import CallFailed, ConfigError, FailureReason
from aloe_agents.evaluation.scales import (
    DEFAULT_SCALE,
    Scale,
    checked_scale,
    criterion_name,
    in_words,
    is_digits,
    is_whole,
    on_scale,
)
from aloe_agents.messages import Answered, Scored, UserSaid
from aloe_agents.model import ChatMessage, ChatModel, Completion, Sampling

_WHOLE = re.compile(r"\s*(-?(?:0|[1-9][0-9]{0,17}))(?:\.0)?\s*\.?\s*")
_NUMBER = re.compile(r"\s*(-?(?:0|[1-9][0-9]{0,17})?(?:\.[0-9]+)?)(?<=[0-9])\s*\.?\s*")
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
_LINE = re.compile(r"\s*(?:[-*]\s+)?(?P<criterion>[^:=]+?)\s*[:=](?P<score>.+)")
_FIELDS = {"profile", "personality", "message", "answer", "number", "low", "high", "reply", "form"}


class Judge:
    """Sees the full persona, the user's message and one answer. It is told neither which model answered nor at which
    turn. A score that cannot be read is asked for again; after ``attempts`` answers it is missing, never guessed.

    ``scale`` is the lowest and the highest score. Two ints mean whole scores; with a float in it, fractions count too.

    ``criteria`` has one call score several things. Each has scores of its own, under the name ``judge.criterion``. The
    model answers with a line for each (``fit: 4``) or a JSON object.

    ``expected`` makes the score the mean of the digits on the scale, weighted by the model's probabilities for them,
    where the server gives any. The answer must be a score all the same.

    Several judges with different names make a panel. Raises ConfigError for options that cannot be used.

    Example::

        Judge(model, prompt="warmth.md", name="style", scale=(0, 10), criteria=("fit", "warmth"))
    """

    hears = (Answered,)
    says = (Scored,)
    essential = False

    def __init__(
        self,
        model: ChatModel,
        prompt: str = "judge",
        attempts: int = 3,
        name: str = "judge",
        expected: bool = False,
        *,
        scale: Sequence[int | float] = DEFAULT_SCALE,
        criteria: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.name = name
        self.scale: Scale = checked_scale(scale)
        self.criteria = _checked_criteria(criteria)
        if expected and (self.criteria or not is_digits(self.scale)):
            raise ConfigError(
                "expected scores need a single score of one digit; "
                + ("this judge scores several criteria" if self.criteria else f"the scale is {in_words(self.scale)}")
            )
        self.score_names = tuple(criterion_name(name, criterion) for criterion in self.criteria) or (name,)
        """The names under which its scores stand."""
        self.prompt = prompts.load(prompt, _FIELDS, {"system", "user", "again"})
        self.attempts = attempts
        self.expected = expected

    async def respond(self, heard: Answered, scene: Scene) -> list[Scored]:
        """One score for each criterion, or one in all."""
        fields = {
            "profile": scene.persona.profile,
            "personality": scene.persona.personality,
            "message": (await scene.need(UserSaid)).text,
            "answer": heard.text,
            **_wording(self.scale, self.criteria),
        }
        messages: list[ChatMessage] = [self.prompt.fill("system", **fields), self.prompt.fill("user", **fields)]
        scores: Mapping[str, float | None] = dict.fromkeys(self.score_names)
        for _ in range(self.attempts):
            verdict = await self._ask(scene, messages)
            scores = self._read(verdict)
            if None not in scores.values():
                break
            again = self.prompt.fill("again", **fields)
            messages = [*messages[:2], {"role": "assistant", "content": verdict.text}, again]
        return [Scored.of(heard, judge=name, score=score) for name, score in scores.items()]

    def _read(self, verdict: Completion) -> dict[str, float | None]:
        """The scores in an answer, by the names under which they stand."""
        if self.criteria:
            found = parse_scores(verdict.text, self.criteria, self.scale)
            return dict(zip(self.score_names, found.values(), strict=True))
        score = parse_score(verdict.text, self.scale)
        mean = expected_score(verdict.raw, self.scale) if self.expected and score is not None else None
        return {self.name: score if mean is None else mean}

    async def _ask(self, scene: Scene, messages: list[ChatMessage]) -> Completion:
        if self.expected:
            sampling: Sampling = {"logprobs": True, "top_logprobs": 20}
            try:
                return await scene.ask(self.model, messages, **sampling)
            except CallFailed as failed:  # some servers refuse to give probabilities: then the digit itself counts
                if failed.reason is not FailureReason.REFUSED_REQUEST:
                    raise
        return await scene.ask(self.model, messages)


@overload
def parse_score(text: str) -> int | None: ...
@overload
def parse_score(text: str, scale: Scale) -> int | float | None: ...
def parse_score(text: str, scale: Scale = DEFAULT_SCALE) -> int | float | None:
    """The score that ``text`` is; None for anything but a bare number on the scale."""
    whole = is_whole(scale)
    match = (_WHOLE if whole else _NUMBER).fullmatch(text)
    if match is None:
        return None
    score: int | float = int(match[1]) if whole else float(match[1])
    return score if on_scale(score, scale) else None


def parse_scores(text: str, criteria: Sequence[str], scale: Scale = DEFAULT_SCALE) -> dict[str, int | float | None]:
    """The score of each criterion in ``text``: a line ``criterion: score`` for each, or a JSON object.

    A score is None where it is missing, given twice, or not on the scale. With any other line, all of them are None.
    """
    fenced = _FENCE.fullmatch(text)
    body = (fenced[1] if fenced else text).strip()
    given: dict[str, list[str]] = {criterion.casefold(): [] for criterion in criteria}
    for name, said in (_in_json(body) if body.startswith("{") else _in_lines(body)) or ():
        if name not in given:
            return dict.fromkeys(criteria)
        given[name].append(said)
    return {criterion: _only(given[criterion.casefold()], scale) for criterion in criteria}


def _only(given: Sequence[str], scale: Scale) -> int | float | None:
    return parse_score(given[0], scale) if len(given) == 1 else None


def expected_score(raw: bytes, scale: Scale = DEFAULT_SCALE) -> float | None:
    """The mean of the digits on ``scale``, weighted by their probabilities at the place of the first one.

    ``raw`` is a chat completion as it came. None if it holds no such probabilities.
    """
    try:
        tokens = orjson.loads(raw)["choices"][0]["logprobs"]["content"]
        for token in tokens:
            if _digit(token["token"], scale) is not None:
                return _mean_digit(token["top_logprobs"], scale)
    except (ValueError, TypeError, KeyError, IndexError):
        pass
    return None


def _mean_digit(top: Sequence[Mapping[str, object]], scale: Scale) -> float | None:
    likely: dict[int, float] = {}
    for other in top:
        if (digit := _digit(str(other["token"]), scale)) is not None:
            likely[digit] = likely.get(digit, 0.0) + math.exp(float(str(other["logprob"])))
    total = sum(likely.values())
    return round(sum(digit * weight for digit, weight in likely.items()) / total, 6) if total else None


def _digit(token: str, scale: Scale) -> int | None:
    text = token.strip()
    return int(text) if re.fullmatch("[0-9]", text) and on_scale(int(text), scale) else None


def _in_json(text: str) -> list[tuple[str, str]] | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return [(str(name).casefold(), "" if isinstance(said, bool) else str(said)) for name, said in value.items()]


def _in_lines(text: str) -> list[tuple[str, str]] | None:
    lines = [_LINE.fullmatch(line) for line in text.splitlines() if line.strip()]
    read = [(match["criterion"].casefold(), match["score"]) for match in lines if match]
    return read if len(read) == len(lines) else None


def _wording(scale: Scale, criteria: Sequence[str]) -> dict[str, str]:
    """How the prompt's fields put the scale and the criteria."""
    number = "whole number" if is_whole(scale) else "number"
    one = f"one {'digit' if is_digits(scale) else number} from {in_words(scale)}"
    wording = {"low": str(scale[0]), "high": str(scale[1])}
    if not criteria:
        return wording | {"number": f"one {number}", "reply": "the number alone", "form": one}
    line = f"one line for each criterion, such as '{criteria[0]}: NUMBER'"
    return wording | {
        "number": f"one {number} for each criterion ({', '.join(criteria)})",
        "reply": f"{line}, and nothing else",
        "form": f"{line} (each {one})",
    }


def _checked_criteria(criteria: Sequence[str]) -> tuple[str, ...]:
    given = (criteria,) if isinstance(criteria, str) else tuple(criteria)
    for name in given:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or set(name) & set("/:="):
            raise ConfigError(f"a judge's criterion must be a printable name without '/', ':' and '=', not {name!r}")
    if len({name.casefold() for name in given}) < len(given):
        raise ConfigError(f"a judge's criteria must differ, not {', '.join(given)}")
    return given
