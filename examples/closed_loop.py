"""Does a model learn to take up what its user told it? Small models are trained from scratch on simulated trees, served by
vLLM, and evaluated on people who took no part in training. Takes twenty minutes on two CPU cores, five with --quick.

Run: python examples/closed_loop.py OUT [--quick]; needs pip install 'aloe-agents[train,serve]'.
"""

import sys
from pathlib import Path

from aloe_agents.runners.closed_loop import Scale, close_loop

QUICK = Scale(people=900, held_out=40, turns=5, facts=5, traits=1, layers=2, sft_learning_rate=1.5e-3)
"""Shorter dialogues, and less to know about each person: a smaller model learns them in a quarter of the time."""


def main(out: Path, scale: Scale) -> bool:
    """Whether everything came out as in the paper's Table 1 and Figure 4; OUT/report.md has the table."""
    comparison, claims = close_loop(out, scale)
    best = max(comparison.rows, key=lambda row: row.measured.statistics["average"].value)
    print(f"\n{best.name} adapts best")
    return all(claim.holds for claim in claims)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(0 if main(Path(sys.argv[1]), QUICK if "--quick" in sys.argv else Scale()) else 1)
