"""From trees to rows for trainers (paper, section 2.2), in the conversational formats of trl.

1. A turn becomes a row. Its prompt is the history {m_j, s_j} for j < i, then the user's message m_i; the model learns p_i,
   and prefers it to r_i. A tree that branches gives a row for every node, each with the history of its own path.
2. Which answers play p_i and r_i is free: :class:`Labels` names them. The paper's are ``preferred`` and ``rejected``.
3. Nothing is cut or filled in. A turn that cannot be a row is left out, and counted by reason.
4. Personas are the unit of splitting and capping: all rows of one persona land on the same side.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from aloe_agents.errors import ConfigError
from aloe_agents.messages import NodePath
from aloe_agents.model import ChatMessage
from aloe_agents.tree import Answer, Tree, Turn

Form = Literal["sft", "dpo", "kto"]
FORMS: tuple[Form, ...] = ("sft", "dpo", "kto")
PREFERRED, REJECTED = "preferred", "rejected"


class ArgumentError(ConfigError):
    """An argument cannot be used. ``argument`` is its name, ``text`` says why; ``instead`` is the argument to use."""

    def __init__(self, argument: str, text: str, instead: str = "") -> None:
        super().__init__(argument, text, instead)
        self.argument, self.text, self.instead = argument, text, instead

    def __str__(self) -> str:
        return f"{self.argument} {self.text}" + (f"; use {self.instead} instead" if self.instead else "")


class Row(TypedDict, total=False):
    """A turn in one of trl's formats, and where it is from."""

    prompt: list[ChatMessage]
    completion: list[ChatMessage]
    """What sft learns, or the answer that kto judges."""
    chosen: list[ChatMessage]
    rejected: list[ChatMessage]
    label: bool
    """kto: whether the completion is a chosen answer."""
    id: str
    conversation: str
    """The tree's id: rows of one conversation are packed into one sequence."""
    persona: str
    """A digest of the persona: equal for the same person in two conversations."""
    turn: int
    """Counted from 1."""
    margin: float | None
    """The judge's score of the chosen answer minus that of the rejected one; None unless it scored both."""
    extra: Mapping[str, object]
    """Further fields of the persona; only there if it has any."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Which answers of a turn are learned. The defaults are the paper's."""

    chosen: tuple[str, ...] = (PREFERRED,)
    """What sft learns and what dpo prefers is one label. kto takes one or more: these are true, all others false."""
    rejected: str = REJECTED
    """The answer that dpo prefers the chosen one to; the other forms do not use it."""

    def __post_init__(self) -> None:
        if not self.chosen or "" in self.chosen:
            raise ArgumentError("chosen", "must name at least one label")
        if len({*self.chosen}) < len(self.chosen):
            raise ArgumentError("chosen", f"names a label twice: {', '.join(self.chosen)}")

    def sides(self, form: Form, answers: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of a turn with these ``answers``: the labels that are learned, and those that they are set against."""
        others = (self.rejected,) if form == "dpo" else tuple(label for label in answers if label not in self.chosen)
        return self.chosen, others

    def check(self, form: Form) -> None:
        """Raise ArgumentError where ``form`` cannot be made of these labels."""
        if form != "kto" and len(self.chosen) > 1:
            raise ArgumentError("chosen", f"must be one label for {form}, not {', '.join(self.chosen)}")
        if form == "dpo" and self.rejected in self.chosen:
            raise ArgumentError("rejected", f"must differ from chosen, but both are {self.rejected!r}")


PAPER = Labels()
"""The paper's labels: the preferred answer, over the rejected one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which turns become rows."""

    min_margin: float | None = None
    """Where a judge scored both answers, the least difference between their scores."""
    per_persona: int | None = None
    """The most turns of one persona, drawn by ``seed``."""
    validation: float = 0.0
    """Share of the personas to set aside, from 0 up to but not including 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.min_margin is not None and not math.isfinite(self.min_margin):
            raise ArgumentError("min_margin", f"must be a number, not {self.min_margin}")
        if self.per_persona is not None and self.per_persona < 1:
            raise ArgumentError("per_persona", f"must be at least 1, not {self.per_persona}")
        if not 0 <= self.validation < 1:
            raise ArgumentError("validation", f"must be at least 0 and less than 1, not {self.validation:g}")


@dataclass(slots=True)
class Left:
    """How many turns became rows, and why the others did not."""

    rows: int = 0
    validation: int = 0
    """How many of the rows were set aside."""
    out: Counter[str] = field(default_factory=Counter)
    """Turns left out, by reason."""
    scored: int = 0
    """Turns in which a judge scored the chosen answer and another one."""
    labels: set[str] = field(default_factory=set)
    """The labels of all answers seen."""

    def check_scores(self, chosen: Filter, judge: str | None) -> None:
        """Raise ArgumentError where scores were asked for and there are none."""
        if self.scored or (judge is None and chosen.min_margin is None):
            return
        wanted, by = ("judge", f" by the judge {judge!r}") if judge is not None else ("min_margin", "")
        raise ArgumentError(
            wanted,
            f"needs scores, but no turn has scores of both answers{by}; aloe judge DIR writes scored trees to "
            "DIR/judged/NAME",
        )

    def check_labels(self, labels: Labels) -> None:
        """Raise ArgumentError where no answer has any of the chosen labels."""
        if self.labels and not self.labels & {*labels.chosen}:
            known = ", ".join(sorted(self.labels))
            raise ArgumentError("chosen", f"is {', '.join(labels.chosen)}, but the answers are labelled {known}")

    def reasons(self) -> str:
        """What was left out, in words."""
        return ", ".join(f"{count} {reason}" for reason, count in self.out.most_common() if count) or "it is empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One turn as training sees it: a prompt, and the answers that were given to it."""

    id: str
    conversation: str
    persona: str
    turn: int
    prompt: tuple[ChatMessage, ...]
    """History and message: user and assistant in turn, the user last."""
    answers: Mapping[str, Answer]
    """By label."""
    extra: Mapping[str, object]

    def text(self, label: str) -> str | None:
        """The answer under ``label`` without surrounding blanks; None where there is no such answer."""
        return None if (answer := self.answers.get(label)) is None else answer.text.strip()

    def margin(self, form: Form, labels: Labels, judge: str | None = None) -> float | None:
        """How far ``judge`` (default: the only one) scored the chosen answers above the others.

        The others are the rejected answer for dpo, and all others for sft and kto. Of several answers on a side the one
        nearest to the other side counts. None unless both sides were scored. Raises ArgumentError where several judges
        scored and none was named.
        """
        ours, theirs = (
            [self.answers[name] for name in side if name in self.answers] for side in labels.sides(form, self.answers)
        )
        if not ours or not theirs:
            return None
        named = judge or _only_judge([*ours, *theirs], self.conversation)
        one, other = _scores(ours, named), _scores(theirs, named)
        return min(one) - max(other) if one and other else None


def samples(tree: Tree) -> Iterator[Sample]:
    """The turns of ``tree``, each with its history. A turn whose history lacks an answer is left out."""
    nodes = {turn.path: turn for turn in tree.turns}
    persona = hashlib.sha256(f"{tree.persona.profile}\0{tree.persona.personality}".encode()).hexdigest()[:12]
    for turn in tree.turns:
        if (history := _history(tree, nodes, turn.path)) is not None:
            yield Sample(
                id="/".join([tree.id, *turn.path]) + f"#{turn.turn}",
                conversation=tree.id,
                persona=persona,
                turn=turn.turn,
                prompt=(*history, {"role": "user", "content": turn.user}),
                answers=turn.answers,
                extra=tree.persona.extra,
            )


def rows(
    trees: Iterable[Tree],
    form: Form,
    chosen: Filter = Filter(),
    judge: str | None = None,
    left: Left | None = None,
    labels: Labels = PAPER,
) -> Iterator[tuple[bool, Row]]:
    """Rows of ``form``, one tree in memory at a time, each with whether it is set aside for validation.

    ``left`` is filled with what became of the turns. A cap goes through ``trees`` twice, first to count. Raises
    ArgumentError for arguments that do not fit together; at the end, where a margin or a judge was asked for and no turn
    has scores.
    """
    labels.check(form)
    if chosen.per_persona is not None and isinstance(trees, Iterator):
        raise ArgumentError("per_persona", "goes through the trees twice, and an iterator gives them once: pass a list")
    return _rows(trees, form, chosen, judge, Left() if left is None else left, labels)


def _rows(
    trees: Iterable[Tree], form: Form, chosen: Filter, judge: str | None, left: Left, labels: Labels
) -> Iterator[tuple[bool, Row]]:
    capped = _drawn(trees, form, chosen, judge, labels) if chosen.per_persona is not None else None
    for tree in trees:
        for sample in samples(tree):
            left.labels.update(sample.answers)
            margin = sample.margin(form, labels, judge)
            left.scored += margin is not None
            reason = _unfit(sample, form, labels) or _too_close(margin, chosen) or _over_cap(sample.id, capped)
            if reason is not None:
                left.out[reason] += 1
                continue
            aside = _share(f"{chosen.seed} {sample.persona}") < chosen.validation
            for row in _formed(sample, form, labels, margin):
                left.rows += 1
                left.validation += aside
                yield aside, row
    if form == "kto" or labels.chosen != PAPER.chosen:
        left.check_labels(labels)
    left.check_scores(chosen, judge)


def _formed(sample: Sample, form: Form, labels: Labels, margin: float | None) -> Iterator[Row]:
    prompt = list(sample.prompt)
    about: Row = {
        "id": sample.id, "conversation": sample.conversation, "persona": sample.persona, "turn": sample.turn,
        "margin": margin,
    }  # fmt: skip
    if sample.extra:
        about["extra"] = sample.extra
    if form == "dpo":
        pair = [_said(sample.text(label)) for label in (labels.chosen[0], labels.rejected)]
        yield {"prompt": prompt, "chosen": pair[0], "rejected": pair[1], **about}
    elif form == "sft":
        yield {"prompt": prompt, "completion": _said(sample.text(labels.chosen[0])), **about}
    else:
        for label in _by_side(sample, labels):
            if text := sample.text(label):
                yield {"prompt": prompt, "completion": _said(text), "label": label in labels.chosen, **about}


def _by_side(sample: Sample, labels: Labels) -> list[str]:
    """The labels of a turn's answers, the chosen ones first."""
    return sorted(sample.answers, key=lambda label: (label not in labels.chosen, label))


def _unfit(sample: Sample, form: Form, labels: Labels) -> str | None:
    """Why a turn cannot be a row of ``form``."""
    sides = labels.sides(form, sample.answers)
    wanted = {"sft": sides[0], "dpo": (*sides[0], *sides[1]), "kto": ()}[form]
    for label in wanted:
        if not (text := sample.text(label)):
            return f"no {label} answer" if text is None else f"empty {label} answer"
    return None if form == "sft" else _not_apart(sample, sides)


def _not_apart(sample: Sample, sides: tuple[tuple[str, ...], tuple[str, ...]]) -> str | None:
    """Why nothing can be learned from one side against the other."""
    ours, theirs = ({text for label in side if (text := sample.text(label))} for side in sides)
    if not ours and not theirs:
        return "no answer"
    return "equal answers" if ours & theirs else None


def _too_close(margin: float | None, chosen: Filter) -> str | None:
    close = chosen.min_margin is not None and margin is not None and margin < chosen.min_margin
    return "margin too small" if close else None


def _over_cap(id: str, capped: set[str] | None) -> str | None:
    return None if capped is None or id in capped else "over the cap of its persona"


def _drawn(trees: Iterable[Tree], form: Form, chosen: Filter, judge: str | None, labels: Labels) -> set[str]:
    """The ids of the turns that stay under the cap, drawn by a digest of seed and id."""
    by_persona: dict[str, list[str]] = defaultdict(list)
    for tree in trees:
        for sample in samples(tree):
            if not (_unfit(sample, form, labels) or _too_close(sample.margin(form, labels, judge), chosen)):
                by_persona[sample.persona].append(sample.id)
    kept: set[str] = set()
    for ids in by_persona.values():
        kept.update(sorted(ids, key=lambda id: _share(f"{chosen.seed} {id}"))[: chosen.per_persona])
    return kept


def _history(tree: Tree, nodes: Mapping[NodePath, Turn], path: NodePath) -> list[ChatMessage] | None:
    """The messages before a node, the persona's opening first; None where an answer on the way is missing."""
    exchanges = [(past.user, past.answer) for past in tree.persona.opening]
    for depth, label in enumerate(path):
        turn = nodes.get(path[:depth])
        if turn is None or label not in turn.answers:
            return None
        exchanges.append((turn.user, turn.answers[label].text))
    messages: list[ChatMessage] = []
    for user, answer in exchanges:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return messages


def _scores(answers: Iterable[Answer], judge: str | None) -> list[float]:
    return [score for answer in answers if judge is not None and (score := answer.scores.get(judge)) is not None]


def _only_judge(answers: Iterable[Answer], tree: str) -> str | None:
    judges = sorted({name for answer in answers for name in answer.scores})
    if len(judges) > 1:
        raise ArgumentError("judge", f"must be one of {', '.join(judges)}: the answers of {tree} have scores of each")
    return judges[0] if judges else None


def _said(text: str | None) -> list[ChatMessage]:
    return [{"role": "assistant", "content": text or ""}]


def _share(what: str) -> float:
    """A draw from [0, 1) that depends on ``what`` alone."""
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big") / 2**64
