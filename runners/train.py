"""``aloe train``: trl's SFT and DPO on the trees of a run (paper, section 2.2), packed so that a history is encoded once.

Under accelerate for several processes: ``accelerate launch -m aloe_agents.runners.train sft ...``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click
import orjson

from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.files import replacing
from aloe_agents.pools import read_json
from aloe_agents.reading import TREES
from aloe_agents.text import one_line
from aloe_agents.training.rows import Filter, Form, Left, rows
from aloe_agents.tree import read_trees

SUMMARY = "training.json"
SINGLE, HALF = 1e-3, 0.25
"""Nat by which a packed answer may differ from its flat row, in float32 and in bfloat16 (whose own noise is a tenth of that)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One training. The defaults are the paper's."""

    method: Literal["sft", "dpo"]
    model: str
    data: str
    out: str
    answers: Literal["preferred", "rejected", "mixture"] = "preferred"
    mix: str | None = None
    """FILE:SHARE of other conversations."""
    packing: Literal["tree", "flat"] = "tree"
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


@click.command()
@click.argument("method", type=click.Choice(["sft", "dpo"]))
@click.option("--model", required=True, type=click.Path(path_type=Path), help="A directory with a transformers model; for DPO "
              "the one that SFT wrote, which is the reference as well.")  # fmt: skip
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="A run's directory, or rows of aloe export."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Where the model goes; the same command resumes."
)
@click.option("--answers", type=click.Choice(["preferred", "rejected", "mixture"]), default="preferred", show_default=True,
              help="What SFT learns; mixture is preferred with --mix.")  # fmt: skip
@click.option(
    "--mix", metavar="FILE:SHARE", help="Conversations of other kinds (agent data), and their share of the rows."
)
@click.option("--packing", type=click.Choice(["tree", "flat"]), default="tree", show_default=True)
@click.option("--learning-rate", type=float, default=1e-5, show_default=True, help="Linear to 0.")
@click.option("--batch", type=click.IntRange(1), default=48, show_default=True, help="Turns of an optimizer step.")
@click.option("--epochs", type=float, help="3 for SFT, 1 for DPO.")
@click.option("--beta", type=float, default=0.9, show_default=True, help="Of DPO.")
@click.option("--max-length", type=click.IntRange(2), help="Tokens of a row; by itself what the model takes.")
@click.option("--too-long", type=click.Choice(["shorten", "drop", "refuse"]), default="shorten", show_default=True,
              help="shorten leaves out a row's oldest turns; an answer is never cut.")  # fmt: skip
@click.option(
    "--lora", type=click.IntRange(1), metavar="RANK", help="Train an adapter of this rank in place of all weights."
)
@click.option("--chat-template", type=click.Path(path_type=Path), help="A Jinja file, for a tokenizer that has none.")
@click.option("--min-margin", type=float, help="Leave out turns whose answers' scores differ by less.")
@click.option("--judge", help="Whose scores, where several judged.")
@click.option("--seed", type=int, default=0, show_default=True)
def command(epochs: float | None, lora: int | None, **given: Any) -> None:
    """Train a model on a run's trees.

    \b
    aloe train sft --model ./base --data runs/first --out models/sft
    aloe train dpo --model models/sft --data runs/first --out models/dpo
    """
    paths = {name: str(value) for name, value in given.items() if isinstance(value, Path)}
    plan = Plan(**{**given, **paths}, epochs=epochs or (3.0 if given["method"] == "sft" else 1.0), lora=lora or 0)
    train(plan)


def train(plan: Plan) -> dict[str, Any]:
    """Train as ``plan`` says, and write the model, its tokenizer and a summary. Returns the summary.

    Raises ConfigError, before anything is loaded, for what cannot be trained on.
    """
    _require()
    if not (Path(plan.model) / "config.json").is_file():
        raise ConfigError(f"{plan.model} holds no model: there is no config.json")
    if plan.answers == "mixture" and not plan.mix:
        raise ConfigError("--answers mixture needs --mix FILE:SHARE")
    given, left = _given(plan)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from aloe_agents.training.preparing import fitted, mixed

    set_seed(plan.seed)
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    if plan.chat_template:
        tokenizer.chat_template = Path(plan.chat_template).read_text(encoding="utf-8")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if plan.mix:
        path, _, share = plan.mix.rpartition(":")
        if not path or not _is_number(share):
            raise ConfigError(f"--mix is FILE:SHARE, such as agent.jsonl:0.3, not {plan.mix!r}")
        given = mixed(given, Path(path), float(share), plan.seed)
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(plan.model, dtype=dtype, attn_implementation="sdpa")
    longest = plan.max_length or int(getattr(model.config.get_text_config(), "max_position_embeddings", 4096))
    kept, counts = fitted(given, tokenizer, longest, plan.too_long)
    if not kept:
        raise ConfigError(f"no row is left to train on: {_told(left.out + counts)}")
    trainer, ratio, apart = _trainer(plan, model, tokenizer, kept, on_gpu)
    if apart is not None and apart > (HALF if dtype is torch.bfloat16 else SINGLE):
        click.echo(
            f"aloe: packed answers are {apart:.3g} nat from flat rows with this model: training with flat rows",
            err=True,
        )
        model = AutoModelForCausalLM.from_pretrained(plan.model, dtype=dtype, attn_implementation="sdpa")
        plan = replace(plan, packing="flat")
        trainer, ratio, _ = _trainer(plan, model, tokenizer, kept, on_gpu)
    elif apart is not None:
        click.echo(f"packed {ratio:.2f} to 1; the first conversation is {apart:.1e} nat from its flat rows", err=True)
    last = last_checkpoint(Path(plan.out))
    try:
        result = trainer.train(resume_from_checkpoint=str(last) if last else None)
        trainer.save_model(plan.out)
        tokenizer.save_pretrained(plan.out)
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        kept_back = last_checkpoint(Path(plan.out))
        where = f"training goes on from {kept_back}" if kept_back else "there is no checkpoint yet"
        raise Fatal(
            f"{plan.out} cannot be written ({one_line(str(error), 120)}); {where}: make room and run the same command again"
        ) from None
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    summary = {
        **asdict(plan),
        "rows": len(kept),
        "conversations": len({row["conversation"] for row in kept}),
        "left_out": dict(left.out + counts),
        "packing_ratio": round(ratio, 3) if ratio else None,
        "packed_apart_from_flat": apart,
        "steps": result.global_step,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "seconds": round(result.metrics.get("train_runtime", 0.0), 1),
    }
    if trainer.is_world_process_zero():
        with replacing(Path(plan.out) / SUMMARY) as file:
            file.write(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
        _show(summary)
    return summary


def last_checkpoint(out: Path) -> Path | None:
    """The last checkpoint that was written to its end: its state is written last."""
    whole = [place for place in out.glob("checkpoint-*") if (place / "trainer_state.json").is_file()]
    return max(whole, key=lambda place: int(place.name.rpartition("-")[2]), default=None)


def _require() -> None:
    try:
        import datasets
        import trl
    except ImportError as error:
        raise ConfigError(f"training needs trl ({error}); install it with: pip install 'aloe-agents[train]'") from None
    del datasets, trl


def _given(plan: Plan) -> tuple[list[dict[str, Any]], Left]:
    """The rows that the data gives, each with its conversation; and what was left out."""
    form: Form = "dpo" if plan.method == "dpo" else "sft-rejected" if plan.answers == "rejected" else "sft"
    left, path = Left(), Path(plan.data)
    if (path / TREES).is_file():
        trees = list(read_trees(path / TREES))
        found = [row for _, row in rows(trees, form, Filter(min_margin=plan.min_margin), plan.judge, left)]
    else:
        found = [*_read_rows(path / "train.jsonl" if path.is_dir() else path, form)]
    if not found:
        raise ConfigError(f"{plan.data} has no row for {plan.method}: {_told(left.out)}")
    for row in found:
        row.setdefault("conversation", str(row.get("id", "")).partition("/")[0].partition("#")[0])
    return found, left


def _read_rows(path: Path, form: Form) -> Iterator[dict[str, Any]]:
    wanted = ("prompt", "chosen", "rejected") if form == "dpo" else ("prompt", "completion")
    for where, row in read_json(path):
        if not isinstance(row, dict) or any(not isinstance(row.get(name), list) for name in wanted):
            raise ConfigError(f"{where} is no row with {', '.join(wanted)}")
        yield row


def _trainer(
    plan: Plan, model: Any, tokenizer: Any, kept: list[dict[str, Any]], on_gpu: bool
) -> tuple[Any, float | None, float | None]:
    """The trainer; packed, how many times fewer tokens it encodes than rows one by one, and how far the first conversation
    is from its flat rows.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from aloe_agents.training.trainers import GROUP, TreeDPOTrainer, TreeSFTTrainer, first_disagreement

    names = ("prompt", "chosen", "rejected") if plan.method == "dpo" else ("prompt", "completion")
    data = Dataset.from_list([{**{name: row[name] for name in names}, GROUP: row["conversation"]} for row in kept])
    sizes = Counter(row["conversation"] for row in kept)
    turns = sum(sizes.values()) / len(sizes) if plan.packing == "tree" else min(4, plan.batch)
    shared: dict[str, Any] = {
        "output_dir": plan.out,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "linear",
        "num_train_epochs": plan.epochs,
        "per_device_train_batch_size": 1 if plan.packing == "tree" else int(turns),
        "gradient_accumulation_steps": max(1, math.ceil(plan.batch / turns / _processes())),
        "max_length": None,
        "seed": plan.seed,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "report_to": [],
        "gradient_checkpointing": on_gpu,
    }
    given: dict[str, Any] = {"model": model, "train_dataset": data, "processing_class": tokenizer}
    if plan.lora:
        from peft import LoraConfig

        given["peft_config"] = LoraConfig(
            r=plan.lora, lora_alpha=2 * plan.lora, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    tree = plan.packing == "tree"
    if plan.method == "sft":
        trainer = (TreeSFTTrainer if tree else SFTTrainer)(args=SFTConfig(completion_only_loss=True, **shared), **given)
    else:
        args = DPOConfig(beta=plan.beta, precompute_ref_log_probs=True, **shared)
        trainer = (TreeDPOTrainer if tree else DPOTrainer)(args=args, **given)
    if not tree:
        return trainer, None, None
    packed = trainer.train_dataset
    return trainer, sum(packed["flat"]) / max(sum(map(len, packed["tokens"])), 1), first_disagreement(trainer)


def _processes() -> int:
    import os

    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _told(out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in out.most_common() if count) or "it is empty"


def _show(summary: dict[str, Any]) -> None:
    for name in ("rows", "conversations", "left_out", "packing_ratio", "steps", "loss_first", "loss_last", "seconds"):
        value = summary[name]
        shown = _told(Counter(value)) if isinstance(value, dict) and value else "-" if value in (None, {}) else value
        click.echo(f"{name.replace('_', ' '):<16} {shown}")
    click.echo(f"{'model':<16} {summary['out']}")


if __name__ == "__main__":
    command()
