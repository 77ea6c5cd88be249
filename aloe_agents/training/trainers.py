"""trl's SFT and DPO trainers on packed conversations: the same losses, each history encoded once.

1. The parent tokenises rows as ever; rows of one conversation are then packed into one example. A column called
   ``conversation`` says which belong together (rows without it are packed by themselves).
2. The collator makes short rows of the answers, with the tree beside them; the patched backbone (``backbone``) turns that
   into their hidden states. ``compute_loss`` is trl's own.
3. A batch of one is one conversation. trl's ``max_length`` must be None: what is too long was left out before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import DPOTrainer, SFTTrainer

from aloe_agents.errors import ConfigError
from aloe_agents.training.backbone import add_tree_backbone, collate, disagreement
from aloe_agents.training.packing import Packed, TokenRow, pack

GROUP = "conversation"
_COLUMNS = ["tokens", "positions", "end", "places", "flat"]


class TreeCollator:
    """Packed examples to the tensors of a step. ``paired``: the first half of an example's rows are the chosen answers, the
    second half the rejected ones, and a batch has all chosen ones first, as DPO wants it.
    """

    def __init__(self, pad: int, paired: bool = False) -> None:
        self.pad, self.paired = pad, paired

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        trees = [_packed(example) for example in examples]
        batch = collate(trees, self.pad)
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
        _check_arguments(args)
        if args.packing or args.padding_free or args.assistant_only_loss:
            raise ConfigError("packed trees take no packing, padding_free or assistant_only_loss of trl's")
        add_tree_backbone(model)
        given.setdefault("data_collator", TreeCollator(_pad_of(processing_class)))
        super().__init__(
            model=model, args=args, train_dataset=train_dataset, processing_class=processing_class, **given
        )

    def _prepare_dataset(self, dataset: Any, *args: Any, **given: Any) -> Any:
        groups = _groups(dataset)
        rows = []
        for example in super()._prepare_dataset(dataset, *args, **given):
            ids, labels = example["input_ids"], np.asarray(example["labels"])
            own = np.flatnonzero(labels != -100)
            if not len(own) or own[0] == 0 or len(own) != len(ids) - own[0]:
                raise ConfigError("a row's loss must be on its completion, and on all of it")
            rows.append([TokenRow(ids[: own[0]], ids[own[0] :])])
        return _grouped(rows, groups)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*_COLUMNS]


class TreeDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPO on packed conversations; rows as trl's DPOTrainer takes them (prompt, chosen and rejected)."""

    def __init__(self, model: Any, args: Any, train_dataset: Any, processing_class: Any, **given: Any) -> None:
        _check_arguments(args)
        add_tree_backbone(model)
        if given.get("ref_model") is not None:
            add_tree_backbone(given["ref_model"])
        given.setdefault("data_collator", TreeCollator(_pad_of(processing_class), paired=True))
        super().__init__(
            model=model, args=args, train_dataset=train_dataset, processing_class=processing_class, **given
        )
        if self.ref_model is not None and given.get("ref_model") is None:  # trl made a copy of the unpatched class
            add_tree_backbone(self.accelerator.unwrap_model(self.ref_model))

    def _prepare_dataset(self, dataset: Any, *args: Any, **given: Any) -> Any:
        groups = _groups(dataset)
        rows = [
            [
                TokenRow(example["prompt_ids"], example["chosen_ids"]),
                TokenRow(example["prompt_ids"], example["rejected_ids"]),
            ]
            for example in super()._prepare_dataset(dataset, *args, **given)
        ]
        return _grouped(rows, groups)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*_COLUMNS, "ref_chosen_logps", "ref_rejected_logps"]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """The parent keeps a number a row; an example here has one for each of its turns."""
        chosen, rejected = [], []
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size=1, collate_fn=self.data_collator))
        for batch in loader:
            one, other = self.compute_ref_log_probs(self.ref_model or self.model, batch)
            chosen.append(one.cpu().tolist())
            rejected.append(other.cpu().tolist())
        return dataset.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)


def _check_arguments(args: Any) -> None:
    if args.max_length is not None:
        raise ConfigError("packed trees need max_length=None: rows that are too long are left out before training")


def _pad_of(tokenizer: Any) -> int:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad or 0)


def _groups(dataset: Any) -> list[str]:
    if GROUP in dataset.column_names:
        return [str(name) for name in dataset[GROUP]]
    return [str(n) for n in range(len(dataset))]


def _grouped(rows: Iterable[list[TokenRow]], groups: Sequence[str]) -> Dataset:
    """One packed example a conversation, in the order of their first rows; the first of each row's answers come first."""
    together: dict[str, list[list[TokenRow]]] = defaultdict(list)
    for group, row in zip(groups, rows, strict=True):
        together[group].append(row)
    examples = []
    for given in together.values():
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


def first_disagreement(trainer: TreeSFTTrainer | TreeDPOTrainer) -> float:
    """How far the first conversation's answers are from their flat rows, by the model that is to be trained."""
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
