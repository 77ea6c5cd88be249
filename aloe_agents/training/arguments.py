"""A plan as arguments of trl's SFTConfig and DPOConfig, and what may be added to them.

Everything but :func:`check_arguments` and :func:`config_of` works without trl.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from aloe_agents.text import one_line
from aloe_agents.training.plan import TrainingPlan
from aloe_agents.training.rows import ArgumentError, Row

PLANNED = {
    "output_dir": "out", "learning_rate": "learning_rate", "num_train_epochs": "epochs", "seed": "seed",
    "gradient_accumulation_steps": "batch", "beta": "beta", "max_length": "max_length", "packing": "packing",
    "padding_free": "packing", "chat_template_path": "chat_template",
}  # fmt: skip
"""trl's arguments that a field of the plan stands for."""
FIXED = {
    "completion_only_loss": "the loss is on the answer alone",
    "assistant_only_loss": "the loss is on the answer alone",
    "trust_remote_code": "code that comes with a model is not run",
}
"""trl's arguments that cannot be changed, and why."""
_AT_ONCE = "per_device_train_batch_size"


def processes() -> int:
    """How many processes train together (accelerate's WORLD_SIZE)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the first process of the training, which speaks and writes for all."""
    return os.environ.get("RANK", "0") == "0"


def check_arguments(plan: TrainingPlan) -> None:
    """Raise ArgumentError for an argument that trl does not know, or that a field of the plan stands for."""
    from trl import DPOConfig, SFTConfig

    kind = DPOConfig if plan.method == "dpo" else SFTConfig
    known = {argument.name for argument in fields(kind)}
    for name in plan.arguments:
        if name in PLANNED:
            raise ArgumentError("arguments", f"cannot set {name}", instead=PLANNED[name])
        if name in FIXED:
            raise ArgumentError("arguments", f"cannot set {name}: {FIXED[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ArgumentError("arguments", f"cannot set {name}: trl's {kind.__name__} has no such argument{meant}")


def config_of(plan: TrainingPlan, rows: Sequence[Row], on_gpu: bool) -> Any:
    """trl's SFTConfig or DPOConfig. Raises ArgumentError for a value that trl refuses."""
    from trl import DPOConfig, SFTConfig

    at_once = _at_once(plan)
    given: dict[str, object] = {
        "output_dir": plan.out,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "linear",
        "num_train_epochs": plan.epochs,
        _AT_ONCE: at_once,
        "gradient_accumulation_steps": max(1, round(plan.batch / _turns(plan, rows, at_once) / processes())),
        "max_length": None,
        "seed": plan.seed,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "report_to": ["tensorboard"] if importlib.util.find_spec("tensorboard") else [],
        "gradient_checkpointing": on_gpu,
        **_of_method(plan),
        **plan.arguments,
    }
    with refused_by_trl(plan):
        return DPOConfig(**given) if plan.method == "dpo" else SFTConfig(**given)


@contextlib.contextmanager
def refused_by_trl(plan: TrainingPlan) -> Iterator[None]:
    """Turn trl's error in the block into an ArgumentError, where ``plan.arguments`` hold something it may refuse."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not plan.arguments:
            raise
        raise ArgumentError("arguments", f"cannot be used: {one_line(str(error), 300)}") from None


def _of_method(plan: TrainingPlan) -> dict[str, object]:
    if plan.method == "sft":
        return {"completion_only_loss": True}
    # Where accelerate shards the model, the reference cannot be computed before training begins. Of flat rows, trl has
    # the first process alone write what it computed, where the others do not find it.
    sharded = "true" in (os.environ.get("ACCELERATE_USE_DEEPSPEED"), os.environ.get("ACCELERATE_USE_FSDP"))
    early = (plan.packing == "tree" or processes() == 1) and not sharded
    return {"beta": plan.beta, "precompute_ref_log_probs": early}


def _at_once(plan: TrainingPlan) -> int:
    """Examples in a forward pass: one conversation, or up to four rows, as many as divide the batch."""
    default = 1 if plan.packing == "tree" else max(n for n in (1, 2, 3, 4) if plan.batch % n == 0)
    given = plan.arguments.get(_AT_ONCE, default)
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ArgumentError("arguments", f"cannot be used: {_AT_ONCE} must be a number of 1 or more, not {given!r}")
    return given


def _turns(plan: TrainingPlan, rows: Sequence[Row], at_once: int) -> float:
    """Turns in a forward pass. DPO makes its examples as long as most conversations are."""
    if plan.packing == "flat":
        return at_once
    sizes = Counter(row["conversation"] for row in rows)
    mean = sum(sizes.values()) / len(sizes)
    return at_once * (Counter(sizes.values()).most_common(1)[0][0] if plan.method == "dpo" else mean)
