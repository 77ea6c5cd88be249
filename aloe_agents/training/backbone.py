"""A packed conversation through a transformers model: one forward pass scores every answer of a tree.

1. :func:`add_tree_backbone` patches a causal language model's backbone. Called as ever, it does what it always did; given
   the ``tree_`` tensors of a :class:`Batch`, it runs the packed sequence under the tree's mask and gives the hidden states
   gathered into short rows (answers, L, hidden): the prompt's last token, then the answer's. Whatever computes a loss from
   a backbone's rows then does so unknowingly.
2. The mask is boolean and four-dimensional for ``sdpa``, blocks for ``flex_attention`` (on a GPU: it has no backward pass
   elsewhere); a sliding window is measured in depth, as in a flat row.
   ``eager`` adds a mask instead of applying it, which is silently wrong, so it is refused; so are layers that carry a
   state along the sequence, since they would carry it from one branch into the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe_agents.errors import ConfigError
from aloe_agents.training.packing import Packed

_KINDS = ("full_attention", "sliding_attention")
FLEX = "flex_attention"
_BACKENDS = ("sdpa", FLEX)
BLOCK = 128
"""Tokens of a block of flex_attention's; its sequences are filled up to whole ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Packed conversations as tensors: B of them, A answers in all."""

    tree_input_ids: Tensor
    """(B, T), padded at the end."""
    tree_position_ids: Tensor
    """(B, T)"""
    tree_end: Tensor
    """(B, T): q sees k when ``k <= q < end[k]``; padding sees itself."""
    tree_gather: Tensor
    """(A, L): places in the B x T tokens, flattened, of each answer's row; padded with its first place."""
    input_ids: Tensor
    """(A, L): the tokens at those places."""
    attention_mask: Tensor
    """(A, L): 1 where a place is the row's own."""
    labels: Tensor
    """(A, L): the answer's tokens; -100 elsewhere."""


def collate(trees: Sequence[Packed], pad: int = 0, multiple: int = 1) -> Batch:
    """The batch of several packed conversations; ``pad`` is the token that fills up, to a ``multiple``."""
    length = -(-max(len(tree.tokens) for tree in trees) // multiple) * multiple
    longest = max(len(places) for tree in trees for places in tree.places)
    tokens = torch.full((len(trees), length), pad)
    positions = torch.zeros((len(trees), length), dtype=torch.long)
    end = torch.arange(1, length + 1).repeat(len(trees), 1)
    gather, ids, there, labels = [], [], [], []
    for row, tree in enumerate(trees):
        size = len(tree.tokens)
        tokens[row, :size] = torch.from_numpy(tree.tokens)
        positions[row, :size] = torch.from_numpy(tree.positions)
        end[row, :size] = torch.from_numpy(tree.end)
        for places in tree.places:
            fill = longest - len(places)
            place = torch.from_numpy(places)
            own = torch.from_numpy(tree.tokens)[place]
            gather.append(torch.cat([place, place[:1].expand(fill)]) + row * length)
            ids.append(torch.cat([own, torch.full((fill,), pad)]))
            there.append(torch.cat([torch.ones(len(places), dtype=torch.long), torch.zeros(fill, dtype=torch.long)]))
            labels.append(torch.cat([torch.tensor([-100]), own[1:], torch.full((fill,), -100)]))
    return Batch(
        tree_input_ids=tokens,
        tree_position_ids=positions,
        tree_end=end,
        tree_gather=torch.stack(gather),
        input_ids=torch.stack(ids),
        attention_mask=torch.stack(there),
        labels=torch.stack(labels),
    )


def add_tree_backbone(model: Any) -> None:
    """Let ``model``, a causal language model of transformers, take packed conversations. Before PEFT or DDP wraps it.

    Raises ConfigError for a model whose layers or whose attention cannot.
    """
    check_model(model)
    backbone = model.base_model
    plain = backbone.forward

    def forward(*args: Any, **given: Any) -> Any:
        tree = {
            name: given.pop(name, None) for name in ("tree_input_ids", "tree_position_ids", "tree_end", "tree_gather")
        }
        if tree["tree_input_ids"] is None:
            return plain(*args, **given)
        for name in ("input_ids", "attention_mask", "position_ids", "labels"):
            given.pop(name, None)
        found = plain(
            input_ids=tree["tree_input_ids"],
            position_ids=tree["tree_position_ids"],
            attention_mask=_masks(model.config.get_text_config(), tree["tree_end"], tree["tree_position_ids"]),
            **given,
        )
        hidden = found.last_hidden_state
        found.last_hidden_state = hidden.reshape(-1, hidden.shape[-1])[tree["tree_gather"]]
        return found

    backbone.forward = forward


def check_model(model: Any) -> None:
    """Raise ConfigError where packed conversations would be silently wrong."""
    config = model.config.get_text_config()
    check_adapter(getattr(model, "active_peft_config", None))
    named_so = ("layer_types", "layers_block_type")
    other = {kind for name in named_so for kind in getattr(config, name, None) or ()} - {*_KINDS, "attention"}
    if (
        other
        or not hasattr(config, "num_attention_heads")
        or getattr(config, "ssm_cfg", None)
        or hasattr(config, "state_size")
    ):
        named = ", ".join(sorted(other)) or config.model_type
        raise ConfigError(
            f"layers of {named} carry a state from one branch of a tree into the next: train with flat rows"
        )
    if (backend := config._attn_implementation) not in _BACKENDS:
        raise ConfigError(
            f"packed trees need attention by {' or '.join(_BACKENDS)}, not {backend!r}: eager adds a mask and is wrong"
        )
    if backend == "sdpa" and getattr(config, "attn_logit_softcapping", None):
        raise ConfigError(
            "sdpa leaves out this model's cap on attention logits: train with flat rows, or on a GPU with flex_attention"
        )
    for name in ("attention_dropout", "attn_pdrop"):
        if getattr(config, name, 0.0):
            raise ConfigError(f"attention dropout makes packed and flat rows differ: set {name} to 0")


def check_adapter(adapter: Any) -> None:
    """Raise ConfigError for a configuration of PEFT's (None: none) that packed conversations have no place for."""
    if getattr(adapter, "is_prompt_learning", False):
        raise ConfigError(
            "prompt tuning puts tokens of its own before each row, which a tree has no place for: use LoRA"
        )


def _masks(config: Any, end: Tensor, depth: Tensor) -> Any:
    """Who sees whom, as the model's attention takes it; by kind of layer where a model has several."""
    window = getattr(config, "sliding_window", None)
    kinds = {*(getattr(config, "layer_types", None) or ())}

    def ancestors(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (k <= q) & (q < end[b, k])

    def near(b: Any, h: Any, q: Any, k: Any) -> Any:
        seen = ancestors(b, h, q, k)
        return seen & (depth[b, q] - depth[b, k] < window) if window else seen

    made = _blocks if config._attn_implementation == FLEX else _dense
    if "sliding_attention" in kinds:
        return {name: made(rule, end) for name, rule in zip(_KINDS, (ancestors, near), strict=True)}
    slides = not kinds and getattr(config, "use_sliding_window", True)
    return made(near if slides else ancestors, end)


def _dense(rule: Any, end: Tensor) -> Tensor:
    """A rule as a boolean mask (B, 1, T, T)."""
    batch, place = (torch.arange(size, device=end.device) for size in end.shape)
    return rule(batch[:, None, None], None, place[None, :, None], place[None, None, :])[:, None]


def _blocks(rule: Any, end: Tensor) -> Any:
    """A rule as flex_attention's mask, in which whole blocks that nobody sees are left out."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(rule, end.shape[0], None, end.shape[1], end.shape[1], device=end.device)


def token_logps(model: Any, batch: Batch) -> Tensor:
    """Those of the tokens that the answers end with (A, L - 1), and 0 in other places."""
    hidden = model.base_model(
        tree_input_ids=batch.tree_input_ids,
        tree_position_ids=batch.tree_position_ids,
        tree_end=batch.tree_end,
        tree_gather=batch.tree_gather,
        use_cache=False,
    ).last_hidden_state
    logps = torch.log_softmax(model.get_output_embeddings()(hidden[:, :-1]).float(), dim=-1)
    labels = batch.labels[:, 1:]
    picked = logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return torch.where(labels >= 0, picked, torch.zeros_like(picked))


def multiple_of(model: Any) -> int:
    """To whole multiples of what the model's attention wants its sequences filled up."""
    return BLOCK if model.config.get_text_config()._attn_implementation == FLEX else 1


def disagreement(model: Any, tree: Packed, rows: int = 6) -> tuple[float, float]:
    """How far the packed tree's log-probabilities are from those of flat rows, and how far they would be if every token saw
    all before it: the second says what a mask is worth to this model, and the first what it came to.

    In nat a token, the mean over an answer's tokens (what arithmetic alone makes of it does not grow with the answer); of
    the first and last ``rows`` / 2 answers the one where it is largest, with the model as it is.
    """
    device = next(model.parameters()).device
    places = tree.places
    chosen = sorted({*range(min(rows // 2, len(places))), *range(max(0, len(places) - rows // 2), len(places))})
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            flat = {n: _flat_logps(model, tree, n, device) for n in chosen}
            far = []
            for one in (tree, replace(tree, end=np.full_like(tree.end, len(tree.end)))):
                batch = collate([one], multiple=multiple_of(model))
                batch = Batch(**{name: getattr(batch, name).to(device) for name in Batch.__slots__})
                packed, scored = token_logps(model, batch), batch.labels[:, 1:] >= 0
                apart = [float((packed[n][scored[n]] - flat[n]).abs().mean()) for n in chosen]
                far.append(float(np.max(apart)))  # nan if one is
    finally:
        model.train(training)
    return far[0], far[1]


def _flat_logps(model: Any, tree: Packed, answer: int, device: torch.device) -> Tensor:
    """The log-probabilities of an answer's tokens (L,), its row encoded by itself."""
    last = int(tree.places[answer][-1])
    row = [k for k in range(last + 1) if last < tree.end[k]]
    ids = torch.from_numpy(tree.tokens[row])[None].to(device)
    logps = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1].float(), dim=-1)
    return logps.gather(-1, ids[0, 1:, None])[-(len(tree.places[answer]) - 1) :, 0]
