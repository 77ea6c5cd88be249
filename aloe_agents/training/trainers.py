"""trl's SFT and DPO trainers on packed conversations: the same losses, each history encoded once.

1. The parent tokenises rows as ever; rows of one conversation are then packed into one example. A column called
   ``conversation`` says which belong together (rows without it are packed by themselves).
2. The collator makes short rows of the answers, with the tree beside them; the patched backbone (``backbone``) turns that
   into their hidden states. ``compute_loss`` is trl's own.
3. A batch of one is one conversation. trl's ``max_length`` must be None: what is too long was left out before.
4. DPO averages over the pairs of a step and gathers them from all processes, so its examples are made equally large:
   where conversations are not of one length, pieces of several are packed together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import DPOTrainer, SFTTrainer

from aloe_agents.errors import ConfigError
from aloe_agents.training.backbone import add_tree_backbone, check_adapter, collate, disagreement, multiple_of
from aloe_agents.training.packing import Packed, TokenRow, pack

T = TypeVar("T")
GROUP = "conversation"
_COLUMNS = ["tokens", "positions", "end", "places", "flat"]


class TreeCollator:
    """Packed examples to the tensors of a step. ``paired``: the first half of an example's rows are the chosen answers, the
    second half the rejected ones, and a batch has all chosen ones first, as DPO wants it.
    """

    def __init__(self, pad: int, paired: bool = False, multiple: int = 1) -> None:
        self.pad, self.paired, self.multiple = pad, paired, multiple

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        trees = [_packed(example) for example in examples]
        batch = collate(trees, self.pad, self.multiple)
        made = {
            name: getattr(batch, name)
            for name in (
                "tree_input_ids",
                "tree_position_ids",
                "tree_end",
                "tree_gather",
                "input_ids",
                "attention_mask",
            )
        }
        if not self.paired:
            return {**made, "labels": batch.labels}
        counts = [len(tree.places) // 2 for tree in trees]
        starts = np.cumsum([0, *(2 * count for count in counts[:-1])])
        chosen = [start + n for start, count in zip(starts, counts, strict=True) for n in range(count)]
        rejected = [start + count + n for start, count in zip(starts, counts, strict=True) for n in range(count)]
        order = torch.tensor([*chosen, *rejected])
        for name in ("tree_gather", "input_ids", "attention_mask"):
            made[name] = made[name][order]
        made["completion_mask"] = (batch.labels[order] != -100).long()
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in examples[0]:
                made[name] = torch.tensor([value for example in examples for value in example[name]])
        return made


class TreeSFTTrainer(SFTTrainer):  # type: ignore[misc]  # trl is not typed
    """SFT on packed conversations; rows as trl's SFTTrainer takes them (prompt and completion)."""

    def __init__(self, model: Any, args: Any, train_dataset: Any, processing_class: Any, **given: Any) -> None:
        _check_arguments(args, model, given.get("peft_config"))
        if args.packing or args.padding_free or args.assistant_only_loss:
            raise ConfigError("packed trees take no packing, padding_free or assistant_only_loss of trl's")
        add_tree_backbone(model)
        given.setdefault("data_collator", TreeCollator(_pad_of(processing_class), multiple=multiple_of(model)))
        super().__init__(
            model=model, args=args, train_dataset=train_dataset, processing_class=processing_class, **given
        )

    def _prepare_dataset(self, dataset: Any, *args: Any, **given: Any) -> Any:
        rows, prepared = [], super()._prepare_dataset(dataset, *args, **given)
        for example in prepared:
            ids, labels = example["input_ids"], np.asarray(example["labels"])
            own = np.flatnonzero(labels != -100)
            if not len(own) or own[0] == 0 or len(own) != len(ids) - own[0]:
                raise ConfigError("a row's loss must be on its completion, and on all of it")
            rows.append([TokenRow(ids[: own[0]], ids[own[0] :])])
        return _packed_examples(_together(rows, _groups(prepared)))

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*_COLUMNS]


class TreeDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPO on packed conversations; rows as trl's DPOTrainer takes them (prompt, chosen and rejected)."""

    def __init__(self, model: Any, args: Any, train_dataset: Any, processing_class: Any, **given: Any) -> None:
        _check_arguments(args, model, given.get("peft_config"))
        add_tree_backbone(model)
        if given.get("ref_model") is not None:
            add_tree_backbone(given["ref_model"])
        given.setdefault("data_collator", TreeCollator(_pad_of(processing_class), True, multiple_of(model)))
        super().__init__(
            model=model, args=args, train_dataset=train_dataset, processing_class=processing_class, **given
        )
        if self.ref_model is not None and given.get("ref_model") is None:  # trl made a copy of the unpatched class
            add_tree_backbone(self.accelerator.unwrap_model(self.ref_model))

    def _prepare_dataset(self, dataset: Any, *args: Any, **given: Any) -> Any:
        prepared = super()._prepare_dataset(dataset, *args, **given)
        rows = [
            [
                TokenRow(example["prompt_ids"], example["chosen_ids"]),
                TokenRow(example["prompt_ids"], example["rejected_ids"]),
            ]
            for example in prepared
        ]
        return _packed_examples(evened(_together(rows, _groups(prepared))))

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*_COLUMNS, "ref_chosen_logps", "ref_rejected_logps"]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """The parent keeps a number a row; an example here has one for each of its turns."""
        found: list[list[list[float]]] = []
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size, collate_fn=self.data_collator))
        for batch in loader:
            sides = self.compute_ref_log_probs(self.ref_model or self.model, batch)  # (examples x turns,) each
            examples = len(batch["tree_input_ids"])
            logps = torch.stack([side.view(examples, -1) for side in sides], dim=1)
            found += self.accelerator.gather_for_metrics(logps).cpu().tolist()
        for side, column in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
            dataset = dataset.add_column(column, [logps[side] for logps in found])
        return dataset


def _check_arguments(args: Any, model: Any, adapter: Any) -> None:
    check_adapter(adapter)
    config = model.config.get_text_config()
    balance = args.router_aux_loss_coef
    balance = getattr(config, "router_aux_loss_coef", 0.0) if balance is None else balance
    if hasattr(config, "output_router_logits") and balance:
        raise ConfigError(
            "packed trees have no loss that balances a mixture's experts, since it would count a history once: say "
            "--set router_aux_loss_coef=0 (it is not needed to fine-tune), or --packing flat"
        )
    if args.max_length is not None:
        raise ConfigError("packed trees need max_length=None: rows that are too long are left out before training")


def _pad_of(tokenizer: Any) -> int:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad or 0)


def _groups(dataset: Any) -> list[str]:
    if GROUP in dataset.column_names:
        return [str(name) for name in dataset[GROUP]]
    return [str(n) for n in range(len(dataset))]


def _together(rows: Iterable[list[TokenRow]], groups: Sequence[str]) -> list[list[list[TokenRow]]]:
    """The rows of each conversation, in the order of their first ones."""
    together: dict[str, list[list[TokenRow]]] = defaultdict(list)
    for group, row in zip(groups, rows, strict=True):
        together[group].append(row)
    return list(together.values())


def evened(conversations: Sequence[list[T]]) -> list[list[T]]:
    """``conversations`` as pieces of the commonest length. What is left over of longer and shorter ones is put together at
    the end, and the last piece is filled up with rows of the first conversation.
    """
    length = Counter(map(len, conversations)).most_common(1)[0][0]
    pieces = [rows[at : at + length] for rows in conversations for at in range(0, len(rows), length)]
    left = [row for piece in pieces if len(piece) < length for row in piece]
    left += list(islice(cycle(conversations[0]), -len(left) % length))
    whole = [piece for piece in pieces if len(piece) == length]
    return whole + [left[at : at + length] for at in range(0, len(left), length)]


def _packed_examples(conversations: Iterable[list[list[TokenRow]]]) -> Dataset:
    """One example a conversation; the first of each row's answers come first."""
    examples = []
    for given in conversations:
        packed = pack([row[side] for side in range(len(given[0])) for row in given])
        examples.append(
            {
                "tokens": packed.tokens.tolist(),
                "positions": packed.positions.tolist(),
                "end": packed.end.tolist(),
                "places": [places.tolist() for places in packed.places],
                "flat": packed.flat,
            }
        )
    return Dataset.from_list(examples)


def first_disagreement(trainer: TreeSFTTrainer | TreeDPOTrainer) -> tuple[float, float]:
    """``backbone.disagreement`` of the first conversation, by the model that is to be trained."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return disagreement(inner, _packed(trainer.train_dataset[0]))


def _packed(example: Mapping[str, Any]) -> Packed:
    return Packed(
        tokens=np.asarray(example["tokens"]),
        positions=np.asarray(example["positions"]),
        end=np.asarray(example["end"]),
        places=tuple(np.asarray(places) for places in example["places"]),
        flat=int(example["flat"]),
    )
