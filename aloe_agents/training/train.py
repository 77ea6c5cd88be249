"""The public verb :func:`train`: a plan in, a trained model and its summary out (paper, section 2.2).

::

    plan ──> read rows ──> fit to the context ──> trainer (packed, or flat where packing is not exact) ──> model

Nothing is printed: messages go to the logger ``aloe_agents.training`` or to ``say``, steps to ``progress``.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.files import read_text, replacing
from aloe_agents.models.serving import holds_weights
from aloe_agents.text import one_line
from aloe_agents.training.arguments import check_arguments, config_of, is_first, processes, refused_by_trl
from aloe_agents.training.plan import (
    SUMMARY,
    TrainingPlan,
    TrainingRecord,
    TrainingSummary,
    begun,
    contents_of,
    last_checkpoint,
)
from aloe_agents.training.preparing import fitted, mixed, read_rows
from aloe_agents.training.rows import ArgumentError, Left, Row

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

LOG = logging.getLogger("aloe_agents.training")
SINGLE, HALF, SHARE = 2e-5, 0.05, 0.25
"""Nats per token by which packed answers may differ from flat rows, in float32 and in bfloat16. In bfloat16, deep models
turn rounding into more than that (0.13 with 24 layers of random weights), so a share of what a missing mask would make of
it will do."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """How far a training has come."""

    step: int
    """Optimizer steps done."""
    steps: int
    """Optimizer steps in all."""
    figures: Mapping[str, float]
    """trl's latest figures, such as ``loss``, under its names."""


Say = Callable[[str], None]
Progress = Callable[[TrainingStep], None]


def train(plan: TrainingPlan, *, say: Say = LOG.info, progress: Progress | None = None) -> TrainingSummary:
    """Train as ``plan`` says; write the model, its tokenizer and a summary to ``plan.out``. Returns the summary.

    The same plan resumes from the last checkpoint, and returns at once if the training is over. ``say`` gets messages in
    words, ``progress`` every step. It blocks, in any thread, and sets the seeds of torch, numpy and random.

    Raises ConfigError, before anything is written, for what cannot be trained on, and Fatal where the model cannot be
    written.
    """
    contents = contents_of(plan)
    before = begun(plan, contents)
    if isinstance(before, TrainingSummary):
        return before
    rows, left = read_rows(plan.data, plan.method, plan.min_margin, plan.judge, plan.labels)
    _require_trl()  # takes seconds to import: whatever can be refused without it has been refused
    check_arguments(plan)
    with _quiet():
        prepared = _prepared(plan, rows, left)
        trained = _trainer(plan, prepared, say if is_first() else _unsaid)
        args = trained.trainer.args
        examples = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes()
        if before is not None:
            _check_steps(plan, before.examples_per_step, examples, trained.ratio is not None)
        record = TrainingRecord(plan=plan, contents=contents, examples_per_step=examples)
        _write(record)
        steps, seconds = _run(plan, trained.trainer, progress)
    summary = _summary(record, prepared, trained, steps, seconds)
    _write(summary)
    return summary


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What goes into a trainer."""

    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[Row]
    shortened: int
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Trainer:
    """A trainer, and what is known of its packing."""

    trainer: Trainer
    ratio: float | None = None
    """How many times fewer tokens it encodes than rows one by one; None for flat rows."""
    apart: float = 0.0
    """How far the first conversation is from its flat rows, in nats per token."""
    unmasked: float = 0.0
    """How far it would be if every token saw all before it."""


def _prepared(plan: TrainingPlan, rows: list[Row], left: Left) -> _Prepared:
    from transformers import AutoConfig, AutoTokenizer, set_seed

    set_seed(plan.seed)
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    if plan.chat_template:
        tokenizer.chat_template = read_text(Path(plan.chat_template))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if plan.mixture is not None:
        rows = mixed(rows, *plan.mixture, plan.seed)
    config = AutoConfig.from_pretrained(plan.model).get_text_config()
    longest = plan.max_length or int(getattr(config, "max_position_embeddings", 4096))
    kept, counts = fitted(rows, tokenizer, longest, plan.too_long)
    shortened = counts.pop("shortened", 0)
    left.out += counts
    if not kept:
        raise ConfigError(f"no row is left to train on: {left.reasons()}")
    return _Prepared(tokenizer, kept, shortened, dict(left.out))


def _trainer(plan: TrainingPlan, prepared: _Prepared, say: Say) -> _Trainer:
    """A trainer that packs as ``plan`` says, or one for flat rows where packed answers are too far from them."""
    import torch

    on_gpu = torch.cuda.is_available()
    if plan.attention == "flex_attention" and not on_gpu:
        raise ArgumentError("attention", "cannot be flex_attention without a GPU: it has no backward pass on a CPU")
    # All weights are trained in float32 under bfloat16 autocast: bfloat16 weights lose steps of 1e-5.
    half = bool(on_gpu and plan.lora)
    dtype = torch.bfloat16 if half else torch.float32
    made = _built(plan, prepared, load_model(plan, dtype), on_gpu)
    if made.ratio is None:
        return made
    if made.apart <= (max(HALF, SHARE * made.unmasked) if half else SINGLE):  # nan does not agree
        say(
            f"packed {made.ratio:.2f} to 1; the first conversation is {made.apart:.1e} nats per token from its flat rows"
        )
        return made
    apart = made.apart
    say(f"packed answers are {apart:.3g} nats per token from flat rows with this model: training with flat rows")
    del made  # or a GPU holds two models
    gc.collect()
    torch.cuda.empty_cache()
    flat = replace(plan, packing="flat")
    return replace(_built(flat, prepared, load_model(flat, dtype), on_gpu), apart=apart)


def load_model(plan: TrainingPlan, dtype: torch.dtype) -> PreTrainedModel:
    """The model to be trained, with the attention that its rows need."""
    from transformers import AutoConfig, AutoModelForCausalLM

    attention: str | None = plan.attention
    if plan.attention == "auto":
        config = AutoConfig.from_pretrained(plan.model).get_text_config()
        capped = getattr(config, "attn_logit_softcapping", None)  # sdpa would leave the cap out
        attention = "sdpa" if plan.packing == "tree" else "eager" if capped else None
    return AutoModelForCausalLM.from_pretrained(plan.model, dtype=dtype, attn_implementation=attention)


def _built(plan: TrainingPlan, prepared: _Prepared, model: PreTrainedModel, on_gpu: bool) -> _Trainer:
    """trl's trainer of ``model``, or ours on packed trees."""
    from datasets import Dataset
    from trl import DPOTrainer, SFTTrainer

    from aloe_agents.training.trainers import GROUP, TreeDPOTrainer, TreeSFTTrainer, first_disagreement

    tree = plan.packing == "tree"
    columns = ("prompt", "chosen", "rejected") if plan.method == "dpo" else ("prompt", "completion")
    examples: list[Mapping[str, object]] = [{**row} for row in prepared.rows]
    data = Dataset.from_list([{**{name: row[name] for name in columns}, GROUP: row[GROUP]} for row in examples])
    kinds: tuple[Any, Any] = (DPOTrainer, TreeDPOTrainer) if plan.method == "dpo" else (SFTTrainer, TreeSFTTrainer)
    config = config_of(plan, prepared.rows, on_gpu)
    adapter = {"peft_config": _adapter(plan.lora)} if plan.lora else {}
    with refused_by_trl(plan):
        trainer = kinds[tree](
            model=model, args=config, train_dataset=data, processing_class=prepared.tokenizer, **adapter
        )
    if not tree:
        return _Trainer(trainer)
    packed = trainer.train_dataset
    ratio = sum(packed["flat"]) / max(sum(map(len, packed["tokens"])), 1)
    return _Trainer(trainer, ratio, *first_disagreement(trainer))


def _adapter(rank: int) -> object:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def _check_steps(plan: TrainingPlan, then: int, now: int, packed: bool) -> None:
    """Raise ArgumentError where this many processes would not take the steps that the training began with."""
    if then != now:
        what, count = "conversations" if packed else "rows", processes()
        raise ArgumentError(
            "out", f"{plan.out} was begun with steps of {then} {what}, and with {count} processes they would be of {now}: "
            "use as many processes as before, or choose another directory",
        )  # fmt: skip


def _run(plan: TrainingPlan, trainer: Trainer, progress: Progress | None) -> tuple[int, float]:
    """Train and save the model; steps and seconds."""
    last = last_checkpoint(plan.out)
    try:
        with _shown(trainer, progress):
            result = trainer.train(resume_from_checkpoint=str(last) if last else None)
        if trainer.is_fsdp_enabled:  # checkpoints may be in shards, the model is in one piece
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(plan.out))  # with the tokenizer
    except Exception as error:
        if not _is_of_disk(error):
            raise
        reason = one_line(str(error), 120)
        raise Fatal(
            f"cannot write {plan.out} ({reason}): make room and run the same training again; {goes_on(plan)}"
        ) from None
    if is_first() and not holds_weights(Path(plan.out)):
        raise Fatal(f"no weights were written to {plan.out}: configure accelerate to save the model in one piece")
    return int(result.global_step), float(result.metrics.get("train_runtime", 0.0))


def _is_of_disk(error: Exception) -> bool:
    """Whether a file could not be written: torch and safetensors have their own errors for a full disk."""
    named = type(error).__name__ == "SafetensorError" or "PytorchStreamWriter" in str(error)
    return isinstance(error, OSError) or named


def goes_on(plan: TrainingPlan) -> str:
    """Where a training that stopped goes on, in words."""
    last = last_checkpoint(plan.out)
    return f"it resumes from {last}" if last else "there is no checkpoint yet"


def _summary(
    record: TrainingRecord, prepared: _Prepared, trained: _Trainer, steps: int, seconds: float
) -> TrainingSummary:
    losses = [entry["loss"] for entry in trained.trainer.state.log_history if "loss" in entry]
    ratio, rows, examples = trained.ratio, len(prepared.rows), record.examples_per_step
    return TrainingSummary(
        plan=record.plan,
        contents=record.contents,
        examples_per_step=examples,
        trained_on="packed trees" if ratio else "flat rows",
        rows=rows,
        conversations=len({row["conversation"] for row in prepared.rows}),
        shortened=prepared.shortened,
        left_out=prepared.left_out,
        packing_ratio=round(ratio, 3) if ratio else None,
        packed_apart_from_flat=trained.apart if record.plan.packing == "tree" else None,
        steps=steps,
        turns_per_step=round(examples * rows / len(trained.trainer.train_dataset), 1) if ratio else examples,
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        seconds=round(seconds, 1),
    )


def _write(record: TrainingRecord) -> None:
    if is_first():
        with replacing(Path(record.plan.out) / SUMMARY) as file:
            file.write(orjson.dumps(record.to_json(), option=orjson.OPT_INDENT_2))


def _require_trl() -> None:
    try:
        import datasets
        import trl
    except ImportError as error:
        raise ConfigError(f"training needs trl ({error}): pip install 'aloe-agents[train]'") from None
    del datasets, trl


def _unsaid(text: str) -> None:
    """Only the first process speaks."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars of datasets and transformers for what takes seconds: tokenising, saving."""
    import datasets
    from transformers.utils import logging as transformers_logging

    shown = datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if not shown[0]:
            datasets.enable_progress_bars()
        if shown[1]:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _shown(trainer: Trainer, progress: Progress | None) -> Iterator[None]:
    """Let ``trainer`` tell its steps to ``progress`` and print nothing."""
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    class Telling(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        figures: Mapping[str, float] = {}

        def on_log(self, args: object, state: object, control: object, logs: Any = None, **given: object) -> None:
            numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
            self.figures = numbers or self.figures

        def on_train_begin(self, args: object, state: Any, control: object, **given: object) -> None:
            self.on_step_end(args, state, control)

        def on_step_end(self, args: object, state: Any, control: object, **given: object) -> None:
            if progress is not None and state.is_world_process_zero:
                progress(TrainingStep(state.global_step, state.max_steps, self.figures))

    for kind in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(kind)
    trainer.add_callback(Telling())
    yield
