"""What is kept of a run, replayed, read and shown.

::

    Bus ──> Recorder ──> Journal (journal.sqlite) ──> Reading ──> trees.jsonl, accounting
     └────> Progress ──> console                         └──────> the same picture, from another process

- ``journal``: the one writer; ``recorder``: the memo of calls in front of the models, and what is said.
- ``reading``: accounting, trees and a picture from the journal; ``efficiency``: how near to the shortest time.
- ``run``: the owner of all of it; ``simulating``: personas in, a finished run out; ``settings``: what makes two runs one.
- ``progress``: the picture inside a run; ``console``: both pictures in a terminal.
"""

__all__ = [
    "console",
    "efficiency",
    "journal",
    "progress",
    "reading",
    "recorder",
    "records",
    "run",
    "settings",
    "simulating",
]
