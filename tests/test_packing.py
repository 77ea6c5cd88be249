"""The packer by itself, in integers: every row can be read back, and a token sees its own ancestors and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aloe_agents.training.packing import TokenRow, pack

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=8)
ROWS = st.lists(st.builds(TokenRow, TOKENS, TOKENS), min_size=1, max_size=10)


def visible(end: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The mask (T, T) that ``end`` stands for: row q, column k."""
    place = np.arange(len(end))
    return (place[None, :] <= place[:, None]) & (place[:, None] < end[None, :])


@given(ROWS)
@settings(max_examples=300, deadline=None)
def test_every_row_is_read_back_and_sees_itself_alone(rows: list[TokenRow]) -> None:
    packed = pack(rows)
    sees = visible(packed.end)
    assert packed.flat == sum(len(row.prompt) + len(row.answer) for row in rows) >= len(packed.tokens)
    for row, places in zip(rows, packed.places, strict=True):
        whole = [*row.prompt, *row.answer]
        assert packed.tokens[places].tolist() == whole[len(row.prompt) - 1 :]
        assert packed.positions[places].tolist() == list(range(len(row.prompt) - 1, len(whole)))
        for place, depth in zip(places, range(len(row.prompt) - 1, len(whole)), strict=True):
            seen = np.flatnonzero(sees[place])  # what its query attends to: the row so far, in order, each at its depth
            assert packed.tokens[seen].tolist() == whole[: depth + 1]
            assert packed.positions[seen].tolist() == list(range(depth + 1))


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_nothing_is_encoded_twice(rows: list[TokenRow]) -> None:
    prefixes = {
        tuple([*row.prompt, *row.answer][:n]) for row in rows for n in range(1, len(row.prompt) + len(row.answer) + 1)
    }
    packed = pack(rows)
    assert len(packed.tokens) == len(prefixes)
    assert pack([*rows, *rows]).tokens.tolist() == packed.tokens.tolist(), "the same rows again add nothing"


def test_a_conversation_of_ten_turns_is_packed_as_the_figures_say() -> None:
    rng = np.random.default_rng(0)
    history: list[int] = []
    rows = []
    for _ in range(10):
        history = [*history, *rng.integers(0, 1000, 50).tolist()]
        preferred, rejected = (rng.integers(0, 1000, 60).tolist() for _ in range(2))
        rows += [TokenRow(tuple(history), preferred), TokenRow(tuple(history), rejected)]
        history += preferred if rng.random() < 0.5 else rejected
    assert len(pack(rows).tokens) == 10 * (50 + 60 + 60) and pack(rows).ratio > 6


def test_answers_that_share_their_beginning_fork_where_they_part() -> None:
    packed = pack([TokenRow([1, 2], [3, 4, 5]), TokenRow([1, 2], [3, 6]), TokenRow([1, 2], [3])])
    assert packed.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert packed.positions.tolist() == [0, 1, 2, 3, 4, 3]
    assert packed.end.tolist() == [6, 6, 6, 5, 5, 6]
    assert [places.tolist() for places in packed.places] == [[1, 2, 3, 4], [1, 2, 5], [1, 2]]


@pytest.mark.parametrize("rows", [[TokenRow([], [1])], [TokenRow([1], [])]])
def test_a_row_needs_a_prompt_and_an_answer(rows: list[TokenRow]) -> None:
    with pytest.raises(ValueError, match="a prompt and an answer"):
        pack(rows)
    with pytest.raises(ValueError, match="no row"):
        pack([])
