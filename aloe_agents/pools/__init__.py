"""Pools of profiles and personalities: what personas are drawn from, and how pools grow.

::

    seeds ──> Growth ──> Generator ──> proposals ──> Novelty ──> pool.jsonl ──> split, sample
               (rounds)               (is it one?)  (is it new?)     └──> review, page

- ``items``: reading and writing pools; ``split``: holding a part out.
- ``growth``: rounds on the bus; ``proposals``: a generator's answer taken apart and checked; ``review``: a person's decisions.
- ``embedding``, ``similarity``, ``diversity``: vectors, what is new, how varied; ``page``: a map of a pool.
"""

__all__ = [
    "diversity",
    "embedding",
    "growth",
    "items",
    "page",
    "proposals",
    "review",
    "similarity",
    "split",
]
