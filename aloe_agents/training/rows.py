"""From trees to rows for trainers (paper, section 2.2), in the conversational formats of trl.

1. A turn is a row. Its prompt is the history of what went on, {m_j, s_j} for j < i, and the message m_i; what is learned
   is p_i, preferred over r_i. A tree that branches gives a row for every node, each with the history of its own path.
2. Nothing is cut or filled in. A turn that cannot be a row is left out, and counted by reason.
3. Personas are the unit of splitting and capping: all rows of one are on one side.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from aloe_agents.errors import ConfigError
from aloe_agents.messages import NodePath
from aloe_agents.model import ChatMessage
from aloe_agents.tree import Answer, Tree, Turn

Form = Literal["sft", "sft-rejected", "dpo", "kto"]
FORMS: tuple[Form, ...] = ("sft", "sft-rejected", "dpo", "kto")
PREFERRED, REJECTED = "preferred", "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """One turn as training sees it."""

    id: str
    conversation: str
    """The tree's id: rows of one conversation are packed into one sequence."""
    persona: str
    """A digest of the persona: equal for the same person in two conversations."""
    turn: int
    prompt: tuple[ChatMessage, ...]
    """History and message: user and assistant in turn, the user last."""
    preferred: str | None
    rejected: str | None
    margin: float | None
    """The judge's score of the preferred answer minus that of the rejected one; None where it did not score both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which turns become rows."""

    min_margin: float | None = None
    """Where a judge scored both answers: at least so much between them."""
    per_persona: int | None = None
    """At most so many turns of one persona, drawn by ``seed``."""
    validation: float = 0.0
    """Share of the personas that is set aside."""
    seed: int = 0


@dataclass(slots=True)
class Left:
    """How many turns became rows, and why the others did not."""

    rows: int = 0
    validation: int = 0
    """Of the rows, those that were set aside."""
    out: Counter[str] = field(default_factory=Counter)
    """Turns that were left out, by reason."""
    scored: int = 0
    """Turns of which a judge scored both answers."""

    def check_scores(self, chosen: Filter, judge: str | None) -> None:
        """Raise ConfigError where scores were asked for, and there are none."""
        if not self.scored and (judge is not None or chosen.min_margin is not None):
            raise ConfigError(
                f"no turn has scores of both answers{f' by the judge {judge!r}' if judge else ''}, which "
                f"{'--judge' if judge else '--min-margin'} asks for; aloe judge DIR writes judged trees into DIR/judged/NAME"
            )


def pairs(tree: Tree, judge: str | None = None) -> Iterator[PreferencePair]:
    """The turns of ``tree``, each with its history; ``judge`` is whose scores make the margin (default: the only one's).

    Raises ConfigError where several judges scored and none was named.
    """
    nodes = {turn.path: turn for turn in tree.turns}
    persona = hashlib.sha256(f"{tree.persona.profile}\0{tree.persona.personality}".encode()).hexdigest()[:12]
    for turn in tree.turns:
        if (history := _history(nodes, turn.path)) is None:
            continue
        answers = {label: turn.answers.get(label) for label in (PREFERRED, REJECTED)}
        yield PreferencePair(
            id="/".join([tree.id, *turn.path]) + f"#{turn.turn}",
            conversation=tree.id,
            persona=persona,
            turn=turn.turn,
            prompt=(*history, {"role": "user", "content": turn.user}),
            preferred=_text(answers[PREFERRED]),
            rejected=_text(answers[REJECTED]),
            margin=_margin(answers[PREFERRED], answers[REJECTED], judge, tree.id),
        )


def rows(
    trees: Iterable[Tree], form: Form, chosen: Filter = Filter(), judge: str | None = None, left: Left | None = None
) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Rows of ``form``, one tree in memory at a time, each with whether it is set aside for validation.

    ``left`` is filled with what became of the turns. With a cap, the rows of all trees pass twice: once to be counted.
    Raises ConfigError, at the end, where a margin or a judge was asked for and no turn has scores.
    """
    left = Left() if left is None else left
    capped = _drawn(trees, form, chosen, judge) if chosen.per_persona is not None else None
    for tree in trees:
        for pair in pairs(tree, judge):
            left.scored += pair.margin is not None
            reason = _unfit(pair, form, chosen.min_margin)
            if reason is None and capped is not None and pair.id not in capped:
                reason = "over the cap of its persona"
            if reason is not None:
                left.out[reason] += 1
                continue
            aside = _share(f"{chosen.seed} {pair.persona}") < chosen.validation
            for row in _formed(pair, form):
                left.rows += 1
                left.validation += aside
                yield aside, row
    left.check_scores(chosen, judge)


def _formed(pair: PreferencePair, form: Form) -> Iterator[dict[str, Any]]:
    about = {name: getattr(pair, name) for name in ("id", "conversation", "persona", "turn", "margin")}
    prompt = list(pair.prompt)
    if form == "dpo":
        yield {"prompt": prompt, "chosen": _said(pair.preferred), "rejected": _said(pair.rejected), **about}
    elif form == "kto":
        for label, text in ((True, pair.preferred), (False, pair.rejected)):
            if text:
                yield {"prompt": prompt, "completion": _said(text), "label": label, **about}
    else:
        yield {"prompt": prompt, "completion": _said(pair.preferred if form == "sft" else pair.rejected), **about}


def _unfit(pair: PreferencePair, form: Form, min_margin: float | None) -> str | None:
    """Why a turn cannot be a row of ``form``."""
    wanted = {"sft": (PREFERRED,), "sft-rejected": (REJECTED,), "dpo": (PREFERRED, REJECTED), "kto": ()}[form]
    for label in wanted:
        text = pair.preferred if label == PREFERRED else pair.rejected
        if text is None:
            return f"no {label} answer"
        if not text:
            return f"empty {label} answer"
    if not pair.preferred and not pair.rejected:
        return "no answer"
    if len(wanted) != 1 and pair.preferred == pair.rejected:
        return "equal answers"
    if min_margin is not None and pair.margin is not None and pair.margin < min_margin:
        return "margin too small"
    return None


def _drawn(trees: Iterable[Tree], form: Form, chosen: Filter, judge: str | None) -> set[str]:
    """The ids of the turns that stay under the cap, drawn by a digest of seed and id."""
    by_persona: dict[str, list[str]] = defaultdict(list)
    for tree in trees:
        for pair in pairs(tree, judge):
            if _unfit(pair, form, chosen.min_margin) is None:
                by_persona[pair.persona].append(pair.id)
    kept: set[str] = set()
    for ids in by_persona.values():
        kept.update(sorted(ids, key=lambda id: _share(f"{chosen.seed} {id}"))[: chosen.per_persona])
    return kept


def _history(nodes: dict[NodePath, Turn], path: NodePath) -> list[ChatMessage] | None:
    """The messages on the way to a node; None where an answer on it is missing."""
    messages: list[ChatMessage] = []
    for depth, label in enumerate(path):
        turn = nodes.get(path[:depth])
        if turn is None or label not in turn.answers:
            return None
        messages.append({"role": "user", "content": turn.user})
        messages.append({"role": "assistant", "content": turn.answers[label].text})
    return messages


def _margin(preferred: Answer | None, rejected: Answer | None, judge: str | None, tree: str) -> float | None:
    if preferred is None or rejected is None:
        return None
    if judge is None:
        judges = preferred.scores.keys() | rejected.scores.keys()
        if len(judges) > 1:
            raise ConfigError(
                f"the answers of {tree} have scores of {', '.join(sorted(judges))}; name one with --judge"
            )
        judge = next(iter(judges), None)
    one, other = (answer.scores.get(judge) if judge else None for answer in (preferred, rejected))
    return None if one is None or other is None else one - other


def _text(answer: Answer | None) -> str | None:
    return None if answer is None else answer.text.strip()


def _said(text: str | None) -> list[ChatMessage]:
    return [{"role": "assistant", "content": text or ""}]


def _share(what: str) -> float:
    """A draw from [0, 1) that depends on ``what`` alone."""
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big") / 2**64
