"""How well a model adapts to its user (the paper's section 3).

::

    cases ──> dialogues with the candidate ──> judge's scores ──> AL(k), IR, R2 ──> comparison, curves
                                               └──> rejudging, annotation (other judges, people)

- ``benchmark``: the package's own cases; ``metrics``: the figures and their intervals.
- ``results``: one evaluation's file; ``comparison``, ``curves``: several side by side.
- ``rejudging``: finished dialogues scored again; ``annotation``: sheets for people.
"""

__all__ = [
    "annotation",
    "benchmark",
    "comparison",
    "curves",
    "metrics",
    "rejudging",
    "results",
]
