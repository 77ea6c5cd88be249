"""``aloe train``: trl's SFT and DPO on the trees of a run (paper, section 2.2), packed so that a history is encoded once.

Under accelerate for several processes: ``accelerate launch -m aloe_agents.runners.train sft ...``.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import orjson

from aloe_agents.config import parse_override
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.files import replacing
from aloe_agents.models.serving import holds_weights
from aloe_agents.text import one_line
from aloe_agents.training.plan import (
    SUMMARY,
    TrainingPlan,
    begun,
    check_arguments,
    contents_of,
    last_checkpoint,
    share_of,
)
from aloe_agents.training.preparing import fitted, mixed, read_rows, told
from aloe_agents.training.rows import Form

SINGLE, HALF, SHARE = 2e-5, 0.05, 0.25
"""Nat a token by which packed answers may differ from flat rows, in float32 and in bfloat16. There, deep models turn rounding
into more than that (0.13 with 24 layers of random weights), so a share of what a missing mask would make of it will do."""
POSITIVE = click.FloatRange(min=0, min_open=True)


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
    "--mix",
    metavar="SOURCE:SHARE",
    help="Conversations of other kinds (agent data): a file, or a data set on the hub, and their share of the rows.",
)
@click.option("--packing", type=click.Choice(["tree", "flat"]), default="tree", show_default=True)
@click.option("--attention", type=click.Choice(["auto", "sdpa", "flex_attention", "eager"]), default="auto", show_default=True,
              help="auto: sdpa for trees, of flat rows what the model prefers. flex_attention needs a GPU.")  # fmt: skip
@click.option("--learning-rate", type=POSITIVE, default=1e-5, show_default=True, help="Linear to 0.")
@click.option("--batch", type=click.IntRange(1), default=48, show_default=True, help="Turns of an optimizer step.")
@click.option("--epochs", type=POSITIVE, help="3 for SFT, 1 for DPO.")
@click.option("--beta", type=POSITIVE, default=0.9, show_default=True, help="Of DPO.")
@click.option("--max-length", type=click.IntRange(2), help="Tokens of a row (default: what the model takes).")
@click.option("--too-long", type=click.Choice(["shorten", "drop", "refuse"]), default="shorten", show_default=True,
              help="shorten leaves out a row's oldest turns; an answer is never cut.")  # fmt: skip
@click.option(
    "--lora", type=click.IntRange(1), metavar="RANK", help="Train an adapter of this rank in place of all weights."
)
@click.option("--chat-template", type=click.Path(path_type=Path), help="A Jinja file, for a tokenizer that has none.")
@click.option("--min-margin", type=float, help="Leave out turns whose answers' scores differ by less.")
@click.option("--judge", help="Whose scores, where several judged.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any argument of trl's SFTConfig or DPOConfig, such "
              "as warmup_steps=100 or per_device_train_batch_size=4.")  # fmt: skip
def command(epochs: float | None, lora: int | None, overrides: Sequence[str], **given: Any) -> None:
    """Train a model on a run's trees.

    \b
    aloe train sft --model ./base --data runs/first --out models/sft
    aloe train dpo --model models/sft --data runs/first --out models/dpo
    """
    paths = {name: str(value) for name, value in given.items() if isinstance(value, Path)}
    epochs = epochs or (3.0 if given["method"] == "sft" else 1.0)
    arguments = dict(parse_override(text) for text in overrides)
    plan = TrainingPlan(**{**given, **paths}, epochs=epochs, lora=lora or 0, arguments=arguments)
    train(plan)


def train(plan: TrainingPlan) -> dict[str, Any]:
    """Train as ``plan`` says, and write the model, its tokenizer and a summary. Returns the summary.

    Raises ConfigError, before anything is written, for what cannot be trained on.
    """
    share = share_of(plan.mix)
    if plan.answers == "mixture" and share is None:
        raise ConfigError("--answers mixture needs --mix SOURCE:SHARE")
    if plan.method == "dpo" and (share or plan.answers != "preferred"):
        raise ConfigError("--mix and --answers are for sft: dpo learns from pairs of a preferred and a rejected answer")
    contents = contents_of(plan, share)
    before = begun(plan, contents) or {}
    if "steps" in before:
        _show(before)
        return before
    form: Form = "dpo" if plan.method == "dpo" else "sft-rejected" if plan.answers == "rejected" else "sft"
    given, left = read_rows(Path(plan.data), form, plan.min_margin, plan.judge)
    _require()  # takes seconds to import: what can be said without it has been said
    check_arguments(plan)
    import torch
    from transformers import AutoTokenizer, set_seed

    from aloe_agents.runners.training_progress import quiet, shown

    quiet()
    set_seed(plan.seed)
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    if plan.chat_template:
        tokenizer.chat_template = _template(Path(plan.chat_template))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if share is not None:
        given = mixed(given, *share, plan.seed)
    on_gpu = torch.cuda.is_available()
    if plan.attention == "flex_attention" and not on_gpu:
        raise ConfigError("--attention flex_attention needs a GPU: it has no backward pass on processors")
    # all weights are trained in float32 under bfloat16 autocast: steps of 1e-5 are lost on bfloat16 weights
    dtype = torch.bfloat16 if on_gpu and plan.lora else torch.float32
    model = _model(plan, dtype)
    longest = plan.max_length or int(getattr(model.config.get_text_config(), "max_position_embeddings", 4096))
    kept, counts = fitted(given, tokenizer, longest, plan.too_long)
    shortened = counts.pop("shortened", 0)
    if not kept:
        raise ConfigError(f"no row is left to train on: {told(left.out + counts)}")
    trainer, ratio, (apart, unmasked) = _trainer(plan, model, tokenizer, kept, on_gpu)
    if not apart <= (max(HALF, SHARE * unmasked) if dtype is torch.bfloat16 else SINGLE):  # nan is no agreement
        _say(
            f"aloe: packed answers are {apart:.3g} nat a token from flat rows with this model: training with flat rows"
        )
        del trainer, model  # or a GPU holds two
        gc.collect()
        torch.cuda.empty_cache()
        flat = replace(plan, packing="flat")
        trainer, ratio, _ = _trainer(flat, _model(flat, dtype), tokenizer, kept, on_gpu)
    elif ratio:
        _say(f"packed {ratio:.2f} to 1; the first conversation is {apart:.1e} nat a token from its flat rows")
    args = trainer.args
    examples = args.per_device_train_batch_size * args.gradient_accumulation_steps * _processes()
    if (then := before.get("examples_per_step", examples)) != examples:
        raise ConfigError(
            f"{plan.out} was begun with steps of {then} {'conversations' if ratio else 'rows'}, and with {_processes()} "
            f"processes they would be of {examples}: run it on as many as before, or choose another --out"
        )
    asked = {**asdict(plan), "contents": contents, "examples_per_step": examples}
    _write(plan, asked)
    last = last_checkpoint(Path(plan.out))
    try:
        with shown(trainer):
            result = trainer.train(resume_from_checkpoint=str(last) if last else None)
        if trainer.is_fsdp_enabled:  # checkpoints may be in shards, the model is in one piece
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(plan.out)  # with the tokenizer
    except Exception as error:
        if (
            not isinstance(error, OSError)
            and type(error).__name__ != "SafetensorError"
            and "PytorchStreamWriter" not in str(error)
        ):
            raise
        raise Fatal(
            f"{plan.out} cannot be written ({one_line(str(error), 120)}); {_goes_on(plan)}: make room and run the same "
            "command again"
        ) from None
    except KeyboardInterrupt:
        _say(f"aloe: stopped; {_goes_on(plan)} when the same command is run again")
        raise
    if _first() and not holds_weights(Path(plan.out)):
        raise Fatal(
            f"no weights were written to {plan.out}: let accelerate's configuration save the model in one piece"
        )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    summary = {
        **asked,
        "trained_on": "packed trees" if ratio else "flat rows",
        "rows": len(kept),
        "conversations": len({row["conversation"] for row in kept}),
        "shortened": shortened,
        "left_out": dict(left.out + counts),
        "packing_ratio": round(ratio, 3) if ratio else None,
        "packed_apart_from_flat": apart if plan.packing == "tree" else None,
        "steps": result.global_step,
        "turns_per_step": round(examples * len(kept) / len(trainer.train_dataset), 1) if ratio else examples,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "seconds": round(result.metrics.get("train_runtime", 0.0), 1),
    }
    _write(plan, summary)
    _show(summary)
    return summary


def _write(plan: TrainingPlan, summary: dict[str, Any]) -> None:
    if _first():
        with replacing(Path(plan.out) / SUMMARY) as file:
            file.write(orjson.dumps(summary, option=orjson.OPT_INDENT_2))


def _first() -> bool:
    """Whether this is the first process of the training, which speaks and writes for all."""
    return os.environ.get("RANK", "0") == "0"


def _say(text: str) -> None:
    if _first():
        click.echo(text, err=True)


def _goes_on(plan: TrainingPlan) -> str:
    last = last_checkpoint(Path(plan.out))
    return f"training goes on from {last}" if last else "there is no checkpoint yet"


def _require() -> None:
    try:
        import datasets
        import trl
    except ImportError as error:
        raise ConfigError(f"training needs trl ({error}); install it with: pip install 'aloe-agents[train]'") from None
    del datasets, trl


def _template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _model(plan: TrainingPlan, dtype: Any) -> Any:
    """The model that is to be trained, with the attention that its rows need."""
    from transformers import AutoConfig, AutoModelForCausalLM

    attention: str | None = plan.attention
    if plan.attention == "auto":
        config = AutoConfig.from_pretrained(plan.model).get_text_config()
        capped = getattr(config, "attn_logit_softcapping", None)  # which sdpa would leave out
        attention = "sdpa" if plan.packing == "tree" else "eager" if capped else None
    return AutoModelForCausalLM.from_pretrained(plan.model, dtype=dtype, attn_implementation=attention)


def _trainer(
    plan: TrainingPlan, model: Any, tokenizer: Any, kept: list[dict[str, Any]], on_gpu: bool
) -> tuple[Any, float | None, tuple[float, float]]:
    """The trainer; packed, how many times fewer tokens it encodes than rows one by one, and ``first_disagreement``."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from aloe_agents.training.trainers import GROUP, TreeDPOTrainer, TreeSFTTrainer, first_disagreement

    names = ("prompt", "chosen", "rejected") if plan.method == "dpo" else ("prompt", "completion")
    data = Dataset.from_list([{**{name: row[name] for name in names}, GROUP: row["conversation"]} for row in kept])
    sizes = Counter(row["conversation"] for row in kept)
    tree = plan.packing == "tree"
    at_once = plan.arguments.get(
        "per_device_train_batch_size", 1 if tree else max(n for n in (1, 2, 3, 4) if plan.batch % n == 0)
    )
    if type(at_once) is not int or at_once < 1:
        raise ConfigError(f"--set per_device_train_batch_size: a number of 1 or more, not {at_once!r}")
    # of an example: DPO makes its examples as long as most conversations are
    length = Counter(sizes.values()).most_common(1)[0][0] if plan.method == "dpo" else sum(sizes.values()) / len(sizes)
    turns = at_once * (length if tree else 1)
    shared: dict[str, Any] = {
        "output_dir": plan.out,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "linear",
        "num_train_epochs": plan.epochs,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": max(1, round(plan.batch / turns / _processes())),
        "max_length": None,
        "seed": plan.seed,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "report_to": ["tensorboard"] if importlib.util.find_spec("tensorboard") else [],
        "gradient_checkpointing": on_gpu,
        **plan.arguments,
    }
    given: dict[str, Any] = {"model": model, "train_dataset": data, "processing_class": tokenizer}
    if plan.lora:
        from peft import LoraConfig

        given["peft_config"] = LoraConfig(
            r=plan.lora, lora_alpha=2 * plan.lora, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    if plan.method == "sft":
        kinds: Any = (TreeSFTTrainer if tree else SFTTrainer, SFTConfig, {"completion_only_loss": True})
    else:
        # where accelerate shards the model, nothing of it can be computed before the training begins; and trl has the first
        # process alone write what it computed of flat rows, where the others do not find it
        early = (tree or _processes() == 1) and "true" not in (
            os.environ.get("ACCELERATE_USE_DEEPSPEED"),
            os.environ.get("ACCELERATE_USE_FSDP"),
        )
        kinds = (TreeDPOTrainer if tree else DPOTrainer, DPOConfig,
                 {"beta": plan.beta, "precompute_ref_log_probs": early})  # fmt: skip
    try:
        trainer = kinds[0](args=kinds[1](**{**kinds[2], **shared}), **given)
    except (TypeError, ValueError) as error:
        if not plan.arguments:
            raise
        raise ConfigError(f"--set: {one_line(str(error), 300)}") from None
    if not tree:
        return trainer, None, (0.0, 0.0)
    packed = trainer.train_dataset
    return trainer, sum(packed["flat"]) / max(sum(map(len, packed["tokens"])), 1), first_disagreement(trainer)


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _show(summary: dict[str, Any]) -> None:
    if not _first():
        return
    for name in ("rows", "conversations", "shortened", "left_out", "packing_ratio", "steps", "turns_per_step", "loss_first",
                 "loss_last", "seconds"):  # fmt: skip
        value = summary.get(name)
        shown = told(Counter(value)) if isinstance(value, dict) and value else "-" if value in (None, {}) else value
        shown = f"{shown:.5g}" if isinstance(shown, float) else shown
        click.echo(f"{name.replace('_', ' '):<16} {shown}")
    click.echo(f"{'model':<16} {summary['out']}")


if __name__ == "__main__":
    from aloe_agents.runners.cli import main

    sys.argv.insert(1, "train")
    main()
