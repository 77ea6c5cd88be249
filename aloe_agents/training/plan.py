"""What one training is: its settings, the contents of what it reads, and the record that it leaves in its directory."""

from __future__ import annotations

import contextlib
import difflib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.models.serving import local_model
from aloe_agents.text import one_line
from aloe_agents.training.preparing import digest_of_files, rows_digest

SUMMARY = "training.json"
OURS = {
    **{name: f"say {option}" for name, option in {
        "output_dir": "--out", "learning_rate": "--learning-rate", "num_train_epochs": "--epochs", "seed": "--seed",
        "gradient_accumulation_steps": "--batch, turns of a step", "beta": "--beta", "max_length": "--max-length",
        "packing": "--packing", "padding_free": "--packing", "chat_template_path": "--chat-template",
    }.items()},
    "completion_only_loss": "the loss is on the answer alone", "assistant_only_loss": "the loss is on the answer alone",
    "trust_remote_code": "code that comes with a model is not run",
}  # fmt: skip
"""Arguments of trl's that are not taken from ``--set``, and why."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One training. The defaults are the paper's."""

    method: Literal["sft", "dpo"]
    model: str
    data: str
    out: str
    answers: Literal["preferred", "rejected", "mixture"] = "preferred"
    mix: str | None = None
    """SOURCE:SHARE of other conversations."""
    packing: Literal["tree", "flat"] = "tree"
    attention: Literal["auto", "sdpa", "flex_attention", "eager"] = "auto"
    learning_rate: float = 1e-5
    batch: int = 48
    """Turns of an optimizer step."""
    epochs: float = 3.0
    beta: float = 0.9
    max_length: int | None = None
    too_long: Literal["shorten", "drop", "refuse"] = "shorten"
    lora: int = 0
    """The rank of an adapter; 0 trains all weights."""
    chat_template: str | None = None
    min_margin: float | None = None
    judge: str | None = None
    seed: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of trl's SFTConfig or DPOConfig: what is not said here."""


def share_of(mix: str | None) -> tuple[str, float] | None:
    """SOURCE:SHARE, taken apart."""
    if mix is None:
        return None
    path, _, share = mix.rpartition(":")
    with contextlib.suppress(ValueError):
        if path:
            return path, float(share)
    raise ConfigError(f"--mix is SOURCE:SHARE, such as agent.jsonl:0.3, not {mix!r}")


def contents_of(plan: TrainingPlan, share: tuple[str, float] | None) -> dict[str, str]:
    """Digests of what is read, by the plan's name for it. Raises ConfigError for what is not there."""
    model = local_model(Path(plan.model))
    if model.base is not None:
        raise ConfigError(f"{plan.model} is an adapter: merge it into {model.base} first (peft's merge_and_unload)")
    found = {"model": model.name, "data": rows_digest(Path(plan.data))}
    if plan.chat_template:
        found["chat_template"] = digest_of_files(Path(plan.chat_template))
    if share is not None and Path(share[0]).exists():  # a data set on the hub is known by its name
        found["mix"] = digest_of_files(Path(share[0]))
    return found


def begun(plan: TrainingPlan, contents: dict[str, str]) -> dict[str, Any] | None:
    """The record of this very training, with ``steps`` if it is over; None where nothing of it is there to go on from.
    Raises ConfigError for a directory that holds another training.
    """
    place = Path(plan.out) / SUMMARY
    if not place.exists():
        return None
    asked = {name: value for name, value in asdict(plan).items() if name != "out"}
    try:
        found: dict[str, Any] = orjson.loads(place.read_bytes())
        differing = [f"{name} {found[name]!r}, now {value!r}" for name, value in asked.items() if found[name] != value]
        differing += [
            f"{getattr(plan, name)} had other contents"
            for name, digest in contents.items()
            if found["contents"].get(name) != digest
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{place} cannot be read ({one_line(str(error), 80)}); choose another --out") from None
    if "steps" not in found and last_checkpoint(Path(plan.out)) is None:
        return None
    if differing:
        raise ConfigError(
            f"{plan.out} holds a training with other settings ({'; '.join(differing)}); choose another --out"
        )
    return found


def last_checkpoint(out: Path) -> Path | None:
    """The last checkpoint that was written to its end: its state is written last."""
    whole = [place for place in out.glob("checkpoint-*") if (place / "trainer_state.json").is_file()]
    return max(whole, key=lambda place: int(place.name.rpartition("-")[2]), default=None)


def check_arguments(plan: TrainingPlan) -> None:
    """Raise ConfigError for an argument that trl does not know, or that an option of ours stands for."""
    from trl import DPOConfig, SFTConfig

    kind = DPOConfig if plan.method == "dpo" else SFTConfig
    known = {argument.name for argument in fields(kind)}
    for name in plan.arguments:
        if name in OURS:
            raise ConfigError(f"--set {name}: {OURS[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(f"--set {name}: trl's {kind.__name__} has no such argument" + (
                f"; did you mean {near[0]}?" if near else ""))  # fmt: skip
