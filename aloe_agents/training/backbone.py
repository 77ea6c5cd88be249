"""A packed conversation through a transformers model: one forward pass scores every answer of a tree.

1. :func:`add_tree_backbone` patches a causal language model's backbone. Called as usual, it behaves as before. Given the
   ``tree_`` tensors of a :class:`Batch`, it runs the packed sequence under the tree's mask. It then gathers the hidden
   states into short rows (answers, L, hidden): the prompt's last token, then the answer's tokens. Code that computes a
   loss from a backbone's rows need not know.
2. The mask is boolean and four-dimensional for ``sdpa``. For ``flex_attention`` it consists of blocks, and needs a GPU:
   there is no backward pass elsewhere. A sliding window is measured in depth, as in a flat row.
3. ``eager`` adds a mask instead of applying it, which is silently wrong, so it is refused. So are layers that carry a
   state along the sequence: they would carry it from one branch into the next.

Objects of transformers are untyped; only here and in ``trainers`` they are ``Any``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
"""Tokens in a block of flex_attention; sequences are padded to whole blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B packed conversations with A answers in all, as tensors."""

    tree_input_ids: Tensor
    """(B, T), padded at the end."""
    tree_position_ids: Tensor
    """(B, T)"""
    tree_end: Tensor
    """(B, T): q sees k when ``k <= q < end[k]``; padding sees itself."""
    tree_gather: Tensor
    """(A, L): places of each answer's row in the flattened B x T tokens; padded with the row's first place."""
    input_ids: Tensor
    """(A, L): the tokens at those places."""
    attention_mask: Tensor
    """(A, L): 1 where a place belongs to the row, 0 where it is padding."""
    labels: Tensor
    """(A, L): the answer's tokens; -100 elsewhere."""


def collate(trees: Sequence[Packed], pad: int = 0, multiple: int = 1) -> Batch:
    """Several packed conversations as one batch, padded with the token ``pad`` to a ``multiple`` of tokens."""
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
    """Let ``model``, a causal language model of transformers, take packed conversations.

    Call it before PEFT or DDP wraps the model. Raises ConfigError where packed rows would be wrong.
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
    if carrying := _carries_state(config):
        raise ConfigError(
            f"layers of {carrying} carry a state from one branch of a tree into the next: train with flat rows"
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


def _carries_state(config: object) -> str:
    """The layers that carry a state along the sequence, by name; empty where there is none."""
    named_so = ("layer_types", "layers_block_type")
    other = {kind for name in named_so for kind in getattr(config, name, None) or ()} - {*_KINDS, "attention"}
    recurrent = getattr(config, "ssm_cfg", None) or hasattr(config, "state_size")
    if other or recurrent or not hasattr(config, "num_attention_heads"):
        return ", ".join(sorted(other)) or str(getattr(config, "model_type", "this model"))
    return ""


def check_adapter(adapter: object) -> None:
    """Raise ConfigError for a PEFT configuration that packed conversations cannot hold; None is no adapter."""
    if getattr(adapter, "is_prompt_learning", False):
        raise ConfigError(
            "prompt tuning puts its own tokens before each row, and a tree has no place for them: use LoRA"
        )


Rule = Callable[[Tensor, object, Tensor, Tensor], Tensor]
"""(conversation, head, query, key): whether the query sees the key."""


def _masks(config: object, end: Tensor, depth: Tensor) -> object:
    """Who sees whom, as the model's attention takes it; by kind of layer for a model with several kinds."""
    window = getattr(config, "sliding_window", None)
    kinds = {*(getattr(config, "layer_types", None) or ())}

    def ancestors(b: Tensor, h: object, q: Tensor, k: Tensor) -> Tensor:
        seen: Tensor = (k <= q) & (q < end[b, k])
        return seen

    def near(b: Tensor, h: object, q: Tensor, k: Tensor) -> Tensor:
        seen = ancestors(b, h, q, k)
        return seen & (depth[b, q] - depth[b, k] < window) if window else seen

    made = _blocks if getattr(config, "_attn_implementation", None) == FLEX else _dense
    if "sliding_attention" in kinds:
        return {name: made(rule, end) for name, rule in zip(_KINDS, (ancestors, near), strict=True)}
    slides = not kinds and getattr(config, "use_sliding_window", True)
    return made(near if slides else ancestors, end)


def _dense(rule: Rule, end: Tensor) -> Tensor:
    """A rule as a boolean mask (B, 1, T, T)."""
    batch, place = (torch.arange(size, device=end.device) for size in end.shape)
    return rule(batch[:, None, None], None, place[None, :, None], place[None, None, :])[:, None]


def _blocks(rule: Rule, end: Tensor) -> object:
    """A rule as flex_attention's mask, which leaves out whole blocks that nobody sees."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(rule, end.shape[0], None, end.shape[1], end.shape[1], device=end.device)


def token_logps(model: Any, batch: Batch) -> Tensor:
    """The log-probabilities of the answers' tokens (A, L - 1), from one forward pass; 0 in all other places."""
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
    """The multiple of tokens to which the model's attention needs its sequences padded."""
    return BLOCK if model.config.get_text_config()._attn_implementation == FLEX else 1


def disagreement(model: Any, tree: Packed, rows: int = 6) -> tuple[float, float]:
    """How far the packed tree's log-probabilities are from those of flat rows, with and without the tree's mask.

    Without the mask, every token sees all before it: this says what the mask is worth to the model. Both are in nats per
    token, as the mean over an answer's tokens, so that rounding alone does not grow with the answer's length. The first
    and the last ``rows`` / 2 answers are scored, and the largest difference counts.
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
    """The log-probabilities of an answer's tokens (L,), with its row encoded by itself."""
    last = int(tree.places[answer][-1])
    row = [k for k in range(last + 1) if last < tree.end[k]]
    ids = torch.from_numpy(tree.tokens[row])[None].to(device)
    logps = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1].float(), dim=-1)
    return logps.gather(-1, ids[0, 1:, None])[-(len(tree.places[answer]) - 1) :, 0]
