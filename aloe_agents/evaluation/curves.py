"""The curves of Figure 4: each model's AL(k) with its interval as a band, and the regression line.

The axis is the judge's scale. Needs matplotlib (extra ``plot``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.comparison import Comparison
from aloe_agents.evaluation.scales import Scale

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#d4a106")


def plot_curves(found: Comparison, out: Path | str) -> None:
    """Draw ``found`` to the file ``out``; its ending (``.png``, ``.svg``, ``.pdf``) says the format.

    Raises ConfigError if matplotlib is missing or the file cannot be written.
    """
    out = Path(out)
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("curves need matplotlib; install it with: pip install 'aloe-agents[plot]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "aloe"  # the same curves, the same bytes
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    turns = np.arange(1, found.turns + 1)
    for n, row in enumerate(found.rows):
        colour = COLOURS[n % len(COLOURS)]
        level = np.array([al.value for al in row.measured.al])
        low, high = ([getattr(al, end) for al in row.measured.al] for end in ("low", "high"))
        slope = row.measured.statistics["ir"].value
        axes.plot(turns, level, "o-", color=colour, label=f"{row.name}  (IR {slope:.3f})", markersize=4)
        axes.fill_between(turns, low, high, color=colour, alpha=0.18, linewidth=0)
        there = np.isfinite(level)
        if there.sum() > 1:
            line = level[there].mean() + slope * (turns - turns[there].mean())
            axes.plot(turns, line, "--", color=colour, linewidth=1)
    axes.set(xlabel="turn k", ylabel="AL(k)", ylim=limits(found.scale), xticks=turns)
    axes.set_title(f"{found.cases} cases, judge {found.judge}; bands: 95 % intervals", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=160, metadata={"Date": None} if out.suffix == ".svg" else None)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from None


def limits(scale: Scale) -> tuple[float, float]:
    """The ends of the axis: a little beyond those of the judge's scale."""
    low, high = scale
    margin = (high - low) / 40
    return low - margin, high + margin
