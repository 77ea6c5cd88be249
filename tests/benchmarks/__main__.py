"""Every figure of docs/scale.md, as ratios within one run since machines are noisy.

python -m tests.benchmarks                   all of them: about ten minutes
python -m tests.benchmarks client schedule   some
python -m tests.benchmarks size 100000       a large run: a quarter of an hour, 6 GB of disk
"""

from __future__ import annotations

import importlib
import os
import platform
import sys

NAMES = ("start", "engine", "client", "schedule", "memory", "pools", "prefix", "ray", "size", "training")


def main() -> None:
    wanted = [name for name in sys.argv[1:] if not name.isdigit()] or NAMES
    count = [int(word) for word in sys.argv[1:] if word.isdigit()]
    if unknown := [name for name in wanted if name not in NAMES]:
        sys.exit(f"no benchmark is called {unknown[0]!r}; there are {', '.join(NAMES)}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, {platform.platform()}", flush=True)
    for name in wanted:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        module.main(*count if name in ("size", "ray") else ())
        sys.stdout.flush()


if __name__ == "__main__":
    main()
