"""Pools of profiles and personalities: what personas are drawn from, and how pools grow.

::

    seeds ──> Growth ──> Generator ──> proposals ──> Novelty ──> pool.jsonl ──> split, sample
               (rounds)               (is it one?)  (is it new?)     └──> review, page

- ``items``: reading and writing pools; ``importing``: pools from other people's files; ``split``: holding a part out.
- ``growing``: the verb, with files and resume; ``growth``: its rounds, in order; ``rounds``: one round on the bus.
- ``proposals``: a generator's answer, cut into items and checked; ``review``: a person's decisions.
- ``embedding``, ``similarity``, ``diversity``: vectors, what is new, how varied; ``page``: figures and a map of a pool.
"""

__all__ = [
    "diversity",
    "embedding",
    "growing",
    "growth",
    "importing",
    "items",
    "page",
    "proposals",
    "review",
    "rounds",
    "similarity",
    "split",
]
