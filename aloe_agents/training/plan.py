"""What one training is: its settings, a digest of what it reads, and the record that it leaves in its directory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.models.serving import local_model
from aloe_agents.runs.records import Record
from aloe_agents.text import one_line
from aloe_agents.training.preparing import TooLong, check_share, digest_of_files, rows_digest
from aloe_agents.training.rows import PREFERRED, REJECTED, ArgumentError, Labels

SUMMARY = "training.json"
Method = Literal["sft", "dpo"]
Packing = Literal["tree", "flat"]
Attention = Literal["auto", "sdpa", "flex_attention", "eager"]
_CHOICES = {"method": Method, "packing": Packing, "attention": Attention, "too_long": TooLong}
_ABOVE_ZERO = ("learning_rate", "epochs", "beta")
_WHOLE = {"batch": 1, "max_length": 2, "lora": 0}
"""Whole numbers, and the least that each may be."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One training. The defaults are the paper's values (section 2.2).

    Paths may be texts, and are kept as texts. Raises ArgumentError, naming the field, for a value that cannot be used.
    """

    method: Method
    model: str | Path
    """A directory with a transformers model. For dpo it is the reference as well: give the one that sft wrote."""
    data: str | Path
    """A run's directory, or rows that ``aloe export`` wrote."""
    out: str | Path
    """Where the model goes. The same plan resumes there."""
    chosen: str = PREFERRED
    """Label of the answers that sft learns and dpo prefers."""
    rejected: str = REJECTED
    """Label of the answers that dpo prefers the chosen ones to."""
    mix: str | None = None
    """SOURCE:SHARE of other conversations, for sft: a file, a folder or a data set on the hub, and its share of the rows."""
    packing: Packing = "tree"
    attention: Attention = "auto"
    learning_rate: float = 1e-5
    """Falls linearly to 0."""
    batch: int = 48
    """Turns in an optimizer step."""
    epochs: float | None = None
    """None: 3 for sft, 1 for dpo."""
    beta: float = 0.9
    """DPO's beta."""
    max_length: int | None = None
    """The most tokens in a row; None: what the model takes."""
    too_long: TooLong = "shorten"
    """What becomes of longer rows: lose their oldest turns, are dropped, or are an error. An answer is never cut."""
    lora: int = 0
    """The rank of an adapter; 0 trains all weights."""
    chat_template: str | Path | None = None
    """A Jinja file, for a tokenizer that has no template."""
    min_margin: float | None = None
    """Leave out turns where the judge's scores differ by less."""
    judge: str | None = None
    """Whose scores count, where several judges scored."""
    seed: int = 0
    arguments: Mapping[str, object] = field(default_factory=dict)
    """Further arguments of trl's SFTConfig or DPOConfig."""

    def __post_init__(self) -> None:
        for name in ("model", "data", "out", "chat_template"):
            if isinstance(path := getattr(self, name), Path):
                object.__setattr__(self, name, str(path))
        for name, choice in _CHOICES.items():
            if (value := getattr(self, name)) not in get_args(choice):
                raise ArgumentError(name, f"must be one of {', '.join(get_args(choice))}, not {value!r}")
        if self.epochs is None:
            object.__setattr__(self, "epochs", 3.0 if self.method == "sft" else 1.0)
        self._check_numbers()
        self.labels.check(self.method)
        if self.method == "dpo" and self.mix is not None:
            raise ArgumentError("mix", "is for sft: dpo learns from pairs of a chosen and a rejected answer")
        if (mixture := self.mixture) is not None:
            check_share(mixture[1])

    def _check_numbers(self) -> None:
        for name in _ABOVE_ZERO:
            _check_above_zero(name, getattr(self, name))
        for name, least in _WHOLE.items():
            _check_whole(name, getattr(self, name), least)
        if self.min_margin is not None and not math.isfinite(self.min_margin):
            raise ArgumentError("min_margin", f"must be a number, not {self.min_margin}")

    @property
    def labels(self) -> Labels:
        """Which answers are learned."""
        return Labels((self.chosen,), self.rejected)

    @property
    def mixture(self) -> tuple[str, float] | None:
        """``mix`` taken apart: a source, and its share of the rows."""
        if self.mix is None:
            return None
        source, _, share = self.mix.rpartition(":")
        with contextlib.suppress(ValueError):
            if source:
                return source, float(share)
        raise ArgumentError("mix", f"must be SOURCE:SHARE, such as agent.jsonl:0.3, not {self.mix!r}")


def _check_above_zero(name: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(float(str(value))) or float(str(value)) <= 0:
        raise ArgumentError(name, f"must be above 0, not {value!r}")


def _check_whole(name: str, value: object, least: int) -> None:
    if value is None and name == "max_length":
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ArgumentError(name, f"must be a whole number of at least {least}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(Record):
    """A training that was begun."""

    plan: TrainingPlan
    contents: Mapping[str, str]
    """Digests of what it reads, by the plan's field."""
    examples_per_step: int
    """Conversations (packed) or rows (flat) in an optimizer step, over all processes."""


@dataclass(frozen=True, kw_only=True)
class TrainingSummary(TrainingRecord):
    """A training that is over, and what came of it."""

    trained_on: Literal["packed trees", "flat rows"]
    rows: int
    conversations: int
    shortened: int
    """Rows that lost their oldest turns."""
    left_out: Mapping[str, int]
    """Turns that did not become rows, by reason."""
    packing_ratio: float | None
    """How many times fewer tokens were encoded than in flat rows; None for flat rows."""
    packed_apart_from_flat: float | None
    """How far the first conversation's packed answers are from its flat rows, in nats per token."""
    steps: int
    turns_per_step: float
    loss_first: float | None
    loss_last: float | None
    seconds: float


def contents_of(plan: TrainingPlan) -> dict[str, str]:
    """Digests of what a training reads, by the plan's field. Raises ConfigError for what is not there."""
    model = local_model(Path(plan.model))
    if model.base is not None:
        raise ConfigError(f"{plan.model} is an adapter: merge it into {model.base} first (peft's merge_and_unload)")
    found = {"model": model.name, "data": rows_digest(plan.data)}
    if plan.chat_template:
        found["chat_template"] = digest_of_files(Path(plan.chat_template))
    if plan.mixture is not None and Path(plan.mixture[0]).exists():  # a data set on the hub is known by its name
        found["mix"] = digest_of_files(Path(plan.mixture[0]))
    return found


def begun(plan: TrainingPlan, contents: Mapping[str, str]) -> TrainingRecord | None:
    """The record of this very training: a :class:`TrainingSummary` if it is over, None if there is nothing to resume.

    Raises ArgumentError for a directory that holds another training.
    """
    place = Path(plan.out) / SUMMARY
    if not place.exists():
        return None
    try:
        value = orjson.loads(place.read_bytes())
        over = isinstance(value, dict) and "steps" in value
        if not over and last_checkpoint(Path(plan.out)) is None:
            return None
        kind = TrainingSummary if over else TrainingRecord
        found = kind.from_json(value if over else {name: value[name] for name in _RECORD})
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        reason = one_line(str(error), 80)
        raise ArgumentError(
            "out", f"holds {place}, which cannot be read ({reason}): choose another directory"
        ) from None
    if differing := _differing(plan, contents, found):
        raise ArgumentError(
            "out", f"{plan.out} holds a training with other settings ({'; '.join(differing)}): choose another directory"
        )
    return found


_RECORD = tuple(one.name for one in fields(TrainingRecord))


def _differing(plan: TrainingPlan, contents: Mapping[str, str], found: TrainingRecord) -> list[str]:
    """How a training that was begun differs from ``plan``."""
    before, now = asdict(found.plan), asdict(plan)
    settings = [f"{name} {before[name]!r}, now {value!r}" for name, value in now.items() if before[name] != value]
    settings = [text for text in settings if not text.startswith("out ")]
    changed = [name for name, digest in contents.items() if found.contents.get(name) != digest]
    return settings + [f"{getattr(plan, name)} had other contents" for name in changed]


def last_checkpoint(out: Path | str) -> Path | None:
    """The last checkpoint that was written to its end: its state is written last."""
    whole = [place for place in Path(out).glob("checkpoint-*") if (place / "trainer_state.json").is_file()]
    return max(whole, key=lambda place: int(place.name.rpartition("-")[2]), default=None)
