"""The scale that a judge scores on: its lowest and highest score, and whether scores are whole numbers.

1. A scale is a pair (low, high). Two ints mean whole scores, such as ``(1, 5)``; a float in the pair allows fractions,
   such as ``(0.0, 1.0)``.
2. An agent declares its scale as an attribute ``scale``. Without one it scores from 1 to 5, as in the paper.
3. An agent that scores several criteria in one call lists the names of their scores in ``score_names``, each of the
   form ``judge.criterion``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from aloe_agents.engine.agent import Agent
from aloe_agents.errors import ConfigError

Scale = tuple[int | float, int | float]
"""Lowest and highest score."""
DEFAULT_SCALE: Scale = (1, 5)
"""The paper's."""
WIDEST = 21
"""The most whole scores that count as categories; a wider scale is a measure."""


def checked_scale(given: Sequence[int | float]) -> Scale:
    """``given`` as a scale. Raises ConfigError unless it is two finite numbers, the lower one first."""
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        raise ConfigError(f"a judge's scale must be two numbers, the lowest and the highest score, not {given!r}")
    low, high = given
    if not all(isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in given):
        raise ConfigError(f"a judge's scale must be two finite numbers, not {low!r} and {high!r}")
    if low >= high:
        raise ConfigError(f"a judge's lowest score must be below its highest, not {low} and {high}")
    return low, high


def scale_of(agent: object) -> Scale:
    """The scale that an agent declares, or else 1 to 5. Raises ConfigError where it declares something else."""
    return checked_scale(getattr(agent, "scale", DEFAULT_SCALE))


def score_names(agent: Agent) -> tuple[str, ...]:
    """The names under which an agent's scores stand: its ``score_names`` if it lists any, or else its own name."""
    return tuple(getattr(agent, "score_names", ())) or (agent.name,)


def scales_of(judges: Iterable[Agent]) -> dict[str, Scale]:
    """The names under which the scores of ``judges`` stand, each with its scale."""
    return {name: scale_of(judge) for judge in judges for name in score_names(judge)}


def criterion_name(judge: str, criterion: str) -> str:
    """The name under which ``judge``'s scores for ``criterion`` stand."""
    return f"{judge}.{criterion}"


def is_whole(scale: Scale) -> bool:
    """Whether only whole numbers are scores."""
    return all(isinstance(end, int) for end in scale)


def is_digits(scale: Scale) -> bool:
    """Whether every score is one digit."""
    return is_whole(scale) and scale[0] >= 0 and scale[1] <= 9


def ratings_of(scale: Scale) -> tuple[int, ...] | None:
    """The scores of a narrow whole scale, lowest first; None for a wide or a fractional one."""
    low, high = scale
    if not isinstance(low, int) or not isinstance(high, int) or high - low >= WIDEST:
        return None
    return tuple(range(low, high + 1))


def on_scale(score: float, scale: Scale) -> bool:
    """Whether ``score`` is a score of ``scale``."""
    return scale[0] <= score <= scale[1] and (not is_whole(scale) or float(score).is_integer())


def in_words(scale: Scale) -> str:
    """``1 to 5``."""
    return f"{scale[0]} to {scale[1]}"
