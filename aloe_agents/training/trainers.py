"""trl's SFT and DPO trainers on packed conversations: the same losses, each history encoded once.

1. trl's trainer tokenises the rows as usual. Rows of one conversation are then packed into one example: the column
   ``conversation`` says which belong together. Without it, each row is packed by itself.
2. The collator makes short rows of the answers, with the tree beside them. The patched backbone (``backbone``) turns them
   into hidden states. ``compute_loss`` is trl's own.
3. A batch of one is one conversation. trl's ``max_length`` must be None: rows that are too long were left out before.
4. DPO averages over the pairs of a step and gathers them from all processes, so its examples must be equally large.
   Where conversations differ in length, pieces of several are packed together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from trl import DPOTrainer, SFTTrainer

from aloe_agents.errors import ConfigError
from aloe_agents.training.backbone import add_tree_backbone, check_adapter, collate, disagreement, multiple_of
from aloe_agents.training.packing import Packed, TokenRow, pack

T = TypeVar("T")
GROUP = "conversation"
_COLUMNS = ["tokens", "positions", "end", "places", "flat"]
_BY_ROW = ("tree_gather", "input_ids", "attention_mask")
_TENSORS = ("tree_input_ids", "tree_position_ids", "tree_end", *_BY_ROW)
_REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")


class TreeCollator:
    """Packed examples to the tensors of a step.

    If ``paired``, the first half of an example's rows are chosen answers and the second half rejected ones; a batch has
    all chosen ones first, as DPO wants it.
    """

    def __init__(self, pad: int, paired: bool = False, multiple: int = 1) -> None:
        self.pad, self.paired, self.multiple = pad, paired, multiple

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The tensors of these examples, by trl's names and the backbone's."""
        trees = [_packed(example) for example in examples]
        batch = collate(trees, self.pad, self.multiple)
        made: dict[str, Tensor] = {name: getattr(batch, name) for name in _TENSORS}
        if not self.paired:
            return {**made, "labels": batch.labels}
        order = _chosen_first([len(tree.places) // 2 for tree in trees])
        made |= {name: made[name][order] for name in _BY_ROW}
        made["completion_mask"] = (batch.labels[order] != -100).long()
        for name in _REFERENCE:
            if name in examples[0]:
                made[name] = torch.tensor([value for example in examples for value in example[name]])
        return made


def _chosen_first(counts: Sequence[int]) -> Tensor:
    """The order that puts all chosen rows before all rejected ones, for examples of so many pairs."""
    starts = np.cumsum([0, *(2 * count for count in counts[:-1])])
    chosen = [start + n for start, count in zip(starts, counts, strict=True) for n in range(count)]
    rejected = [start + count + n for start, count in zip(starts, counts, strict=True) for n in range(count)]
    return torch.tensor([*chosen, *rejected])


class TreeSFTTrainer(SFTTrainer):  # type: ignore[misc]  # trl is not typed
    """SFT on packed conversations; rows as trl's SFTTrainer takes them (prompt and completion)."""

    def __init__(self, model: Any, args: Any, train_dataset: object, processing_class: object, **given: Any) -> None:
        _check_arguments(args, model, given.get("peft_config"))
        if args.packing or args.padding_free or args.assistant_only_loss:
            raise ConfigError("packed trees do not go together with trl's packing, padding_free or assistant_only_loss")
        add_tree_backbone(model)
        given.setdefault("data_collator", TreeCollator(_pad_of(processing_class), multiple=multiple_of(model)))
        super().__init__(
            model=model, args=args, train_dataset=train_dataset, processing_class=processing_class, **given
        )

    def _prepare_dataset(self, dataset: object, *args: object, **given: object) -> Dataset:
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

    def __init__(self, model: Any, args: Any, train_dataset: object, processing_class: object, **given: Any) -> None:
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

    def _prepare_dataset(self, dataset: object, *args: object, **given: object) -> Dataset:
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
        self._signature_columns = [*_COLUMNS, *_REFERENCE]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """trl keeps one number per row; an example here has one for each of its turns."""
        found: list[list[list[float]]] = []
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size, collate_fn=self.data_collator))
        for batch in loader:
            sides = self.compute_ref_log_probs(self.ref_model or self.model, batch)  # (examples x turns,) each
            examples = len(batch["tree_input_ids"])
            logps = torch.stack([side.view(examples, -1) for side in sides], dim=1)
            found += self.accelerator.gather_for_metrics(logps).cpu().tolist()
        for side, column in enumerate(_REFERENCE):
            dataset = dataset.add_column(column, [logps[side] for logps in found])
        return dataset


def _check_arguments(args: Any, model: Any, adapter: object) -> None:
    check_adapter(adapter)
    config = model.config.get_text_config()
    balance = args.router_aux_loss_coef
    balance = getattr(config, "router_aux_loss_coef", 0.0) if balance is None else balance
    if hasattr(config, "output_router_logits") and balance:
        raise ConfigError(
            "packed trees cannot balance a mixture's experts, since they would count a history once: set "
            "router_aux_loss_coef=0 (fine-tuning does not need it), or train with flat rows"
        )
    if args.max_length is not None:
        raise ConfigError("packed trees need max_length=None: rows that are too long are left out before training")


def _pad_of(tokenizer: object) -> int:
    pad = getattr(tokenizer, "pad_token_id", None)
    return int((getattr(tokenizer, "eos_token_id", None) if pad is None else pad) or 0)


def _groups(dataset: Dataset) -> list[str]:
    if GROUP in dataset.column_names:
        return [str(name) for name in dataset[GROUP]]
    return [str(n) for n in range(len(dataset))]


def _together(rows: Iterable[list[TokenRow]], groups: Sequence[str]) -> list[list[list[TokenRow]]]:
    """The rows of each conversation, in the order of their first rows."""
    together: dict[str, list[list[TokenRow]]] = defaultdict(list)
    for group, row in zip(groups, rows, strict=True):
        together[group].append(row)
    return list(together.values())


def evened(conversations: Sequence[list[T]]) -> list[list[T]]:
    """``conversations`` as pieces of the most common length.

    What remains of longer and shorter ones is put together at the end; rows of the first conversation fill the last piece.
    """
    length = Counter(map(len, conversations)).most_common(1)[0][0]
    pieces = [rows[at : at + length] for rows in conversations for at in range(0, len(rows), length)]
    left = [row for piece in pieces if len(piece) < length for row in piece]
    left += list(islice(cycle(conversations[0]), -len(left) % length))
    whole = [piece for piece in pieces if len(piece) == length]
    return whole + [left[at : at + length] for at in range(0, len(left), length)]


def _packed_examples(conversations: Iterable[list[list[TokenRow]]]) -> Dataset:
    """One example per conversation. The first answers of all rows come first, then the second ones."""
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
    """``backbone.disagreement`` of the first conversation, with the model to be trained."""
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
