"""What is logged of failures: the first of each kind, with its traceback, and how many there were is counted elsewhere."""

from __future__ import annotations

import logging


class FirstOfEachKind(logging.Filter):
    """Lets a failure of an agent pass once for each kind: its agent, its reason, its exception's class.

    A record is of a failure where it has an attribute ``failure``, the kind. All other records pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._met: set[object] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is to be written."""
        kind = getattr(record, "failure", None)
        if kind is None:
            return True
        known = kind in self._met
        self._met.add(kind)
        return not known
