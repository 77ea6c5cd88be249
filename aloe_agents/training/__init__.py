"""Training on trees: reads the files that a run leaves, and imports nothing of the engine.

::

    trees.jsonl ──> rows ──> preparing ──> arguments, trainers (trl) ──> a model's directory
                     │           │              └── packing, backbone: a history is encoded once
                     │           └── fitted to the context, mixed with other conversations
                     ├──> writing   JSONL, Parquet and a card, for other trainers
                     └── authors    the form that the paper's authors publish

- ``train``: the public verb; ``plan``: its settings (:class:`~.plan.TrainingPlan`) and records.
- ``rows``: a turn becomes a row, under any label; ``preparing`` reads, mixes and fits rows.
- ``packing``: token rows as a trie; ``backbone``: a model's attention along it; ``trainers``: trl's trainers on it.
- ``scratch``: models made from scratch, for the closed loop.
"""

__all__ = [
    "arguments",
    "authors",
    "backbone",
    "packing",
    "plan",
    "preparing",
    "rows",
    "scratch",
    "train",
    "trainers",
    "writing",
]
