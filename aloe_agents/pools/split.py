"""A part of a pool is held out: items far apart from each other and unlike all that stay for training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from aloe_agents.errors import ConfigError
from aloe_agents.pools.items import Item


def check_size(count: int, of: Sequence[Item], what: str) -> None:
    """Raise ConfigError if a pool is too small to hold ``count`` of its items out, whatever they are."""
    if count >= len(of):
        raise _too_small(count, what, f"it has {len(of)} items, and some must stay for training")


def _too_small(count: int, what: str, why: str) -> ConfigError:
    return ConfigError(
        f"the pool of {what} is too small to hold {count} of them out: {why}. Grow it, hold fewer out (--eval, "
        f"--eval-{what}), or allow more similarity (--at-most)"
    )


def held_out(count: int, of: Sequence[Item], at_most: float, vectors: Any, what: str) -> list[int]:
    """``count`` rows to hold out: far apart from each other, each at most ``at_most`` similar to any that stays.

    ``vectors`` are the items', centred or raw, of length 1. Raises ConfigError where there are not so many.
    """
    from aloe_agents.pools.similarity import apart  # numpy: not for those who only check sizes

    check_size(count, of, what)
    rows = list(islice(apart(vectors, at_most), count))
    if len(rows) < count:
        found = f"only {len(rows)} of its {len(of)} items are at most {at_most:g} similar to all that would stay"
        raise _too_small(count, what, found)
    return rows
