"""How well a model adapts to its user (the paper's section 3).

::

    cases ──> dialogues with the candidate ──> judges' scores ──> AL(k), IR, R2 ──> comparison, curves
                                               └──> rejudging, annotation (other judges, people)

- ``evaluating``: one model on the cases; ``benchmark``: the package's own cases; ``scales``: what judges score on.
- ``metrics``: the figures and their intervals; ``records``, ``results``: one evaluation, and its file.
- ``comparison``, ``curves``: several evaluations side by side.
- ``rejudging``: finished dialogues scored again; ``annotation``: sheets for people.
"""

__all__ = [
    "annotation",
    "benchmark",
    "comparison",
    "curves",
    "evaluating",
    "metrics",
    "records",
    "rejudging",
    "results",
    "scales",
]
