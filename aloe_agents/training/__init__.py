"""Training on trees: a consumer of the files that a run leaves, which imports nothing of the simulation.

::

    trees.jsonl ──> rows ──> preparing ──> packing ──> trainers (trl) ──> a model's directory
                     └──> writing (JSONL, Parquet, card)     └── backbone: attention along a tree

- ``rows``: trees to rows; ``writing``: rows to files; ``authors``: the form that the paper's authors publish.
- ``preparing``: mixing and fitting; ``packing``, ``backbone``, ``trainers``: a history is encoded once.
- ``plan``: what one training is, and its record; ``scratch``: models made from nothing.
"""

__all__ = [
    "authors",
    "backbone",
    "packing",
    "plan",
    "preparing",
    "rows",
    "scratch",
    "trainers",
    "writing",
]
