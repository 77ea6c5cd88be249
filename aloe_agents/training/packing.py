"""Conversations packed so that no token is encoded twice: the trie of their tokenised rows, laid out as one sequence.

1. A row is what a trainer would see: a prompt's tokens and an answer's. The rows form a trie by their longest common
   prefixes of TOKENS. So the trie holds exactly those rows under every chat template; only how much they share differs.
2. The trie is laid out in depth-first order. A token's position is its depth. Token q sees token k if k is q itself or an
   ancestor of q, which takes one number per token: ``k <= q < end[k]``.
3. An answer is found by its places: the prompt's last token, which predicts the answer's first, then the answer's tokens.
   No token appears twice at a fork.

This module knows integers only, and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[int]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row of a flat data set: an answer under its prompt."""

    prompt: Tokens
    answer: Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Rows as one sequence of T tokens."""

    tokens: NDArray[np.int64]
    """(T,)"""
    positions: NDArray[np.int64]
    """(T,): the depth of each token: its place in every row that contains it."""
    end: NDArray[np.int64]
    """(T,): one past the last token below it, so that q sees k when ``k <= q < end[k]``."""
    places: tuple[NDArray[np.int64], ...]
    """For each row, where the prompt's last token and the answer's tokens stand."""
    flat: int
    """Tokens in all rows, counted one by one."""

    @property
    def ratio(self) -> float:
        """How many times fewer tokens are encoded than in the rows one by one."""
        return self.flat / max(len(self.tokens), 1)


@dataclass(slots=True)
class _Node:
    """A run of tokens without a fork, and what follows it."""

    tokens: NDArray[np.int64]
    children: dict[int, _Node] = field(default_factory=dict)
    start: int = 0
    """Where its first token stands in the packed sequence."""


def pack(rows: Sequence[TokenRow]) -> Packed:
    """Pack the rows of one conversation, or of several; they share whatever their tokens share.

    Raises ValueError for a row without a prompt or an answer.
    """
    if not rows:
        raise ValueError("there is no row to pack")
    root = _Node(np.empty(0, np.int64))
    whole = []
    for row in rows:
        if not len(row.prompt) or not len(row.answer):
            raise ValueError("a row needs a prompt and an answer of at least one token each")
        whole.append(np.concatenate([np.asarray(row.prompt, np.int64), np.asarray(row.answer, np.int64)]))
        _insert(root, whole[-1])
    tokens, positions, end = _laid_out(root)
    places = tuple(_places(root, sequence)[len(row.prompt) - 1 :] for row, sequence in zip(rows, whole, strict=True))
    return Packed(tokens=tokens, positions=positions, end=end, places=places, flat=sum(map(len, whole)))


def _insert(root: _Node, sequence: NDArray[np.int64]) -> None:
    node, at = root, 0
    while at < len(sequence):
        child = node.children.get(int(sequence[at]))
        if child is None:
            node.children[int(sequence[at])] = _Node(sequence[at:])
            return
        shared = _common(child.tokens, sequence[at:])
        if shared < len(child.tokens):  # a fork within the run: its rest becomes a child
            rest = _Node(child.tokens[shared:], child.children)
            child.tokens, child.children = child.tokens[:shared], {int(rest.tokens[0]): rest}
        node, at = child, at + shared


def _common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many tokens two sequences share at their start."""
    length = min(len(one), len(other))
    apart = np.flatnonzero(one[:length] != other[:length])
    return int(apart[0]) if len(apart) else length


def _laid_out(root: _Node) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Tokens, depths and ends in depth-first order; nodes learn where they start."""
    tokens: list[NDArray[np.int64]] = []
    positions: list[NDArray[np.int64]] = []
    ends: list[tuple[int, int, int]] = []
    count = 0
    waiting: list[tuple[_Node, int, bool]] = [(root, 0, False)]
    while waiting:
        node, depth, left = waiting.pop()
        if left:
            ends.append((node.start, node.start + len(node.tokens), count))
            continue
        node.start = count
        count += len(node.tokens)
        tokens.append(node.tokens)
        positions.append(np.arange(depth, depth + len(node.tokens)))
        waiting.append((node, depth, True))
        waiting += [(child, depth + len(node.tokens), False) for child in reversed(node.children.values())]
    end = np.empty(count, np.int64)
    for first, past, value in ends:
        end[first:past] = value
    return np.concatenate(tokens), np.concatenate(positions), end


def _places(root: _Node, sequence: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the tokens of a sequence, which is in the trie, stand in the layout."""
    node, at = root, 0
    found = []
    while at < len(sequence):
        node = node.children[int(sequence[at])]
        length = min(len(node.tokens), len(sequence) - at)
        found.append(np.arange(node.start, node.start + length))
        at += length
    return np.concatenate(found)
