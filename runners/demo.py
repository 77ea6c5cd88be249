"""``aloe demo``: the main job without a model: the package's personas, the scripted stand-in, a live picture."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from aloe_agents.config import EVALUATION_ROLES, POOL_ROLES, load_config
from aloe_agents.evaluation.benchmark import benchmark
from aloe_agents.evaluation.comparison import compare
from aloe_agents.evaluation.results import read_results
from aloe_agents.personas import sample_personas
from aloe_agents.pools.items import read_pool
from aloe_agents.pools.proposals import KINDS, Kind
from aloe_agents.runners.candidates import Model
from aloe_agents.runners.compare import print_comparison, wide
from aloe_agents.runners.evaluate import evaluate
from aloe_agents.runners.personas.grow import grow
from aloe_agents.runners.simulate import simulate
from aloe_agents.runners.terminal import SETTLED, resume_line
from aloe_agents.tree import read_trees


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="The run's directory; default: a temporary one.")
@click.option("--seed", type=int, default=7, show_default=True, help="Random seed.")
@click.option("--turns", type=click.IntRange(1), default=10, show_default=True, help="Turns per conversation.")
@click.option("--train", "trained", is_flag=True, help="Close the loop: train small models from nothing on simulated trees, "
              "serve and evaluate them. Needs trl and vLLM; takes about twenty minutes on two cores.")  # fmt: skip
@click.option("--plain", is_flag=True, help="Print plain lines instead of the live display.")
def command(out: Path | None, seed: int, turns: int, trained: bool, plain: bool) -> int:
    """Simulate 24 users offline, with a judge, and show what came of it. No key, no model, no GPU.

    \b
    aloe demo
    aloe demo --train --out loop
    """
    if out is None:
        out = Path(tempfile.mkdtemp(prefix="aloe-demo-"))
        click.get_current_context().meta[SETTLED] = ["--out", str(out)]
    try:
        return _closed_loop(out, seed, turns) if trained else _simulated(out, seed, turns, plain)
    except KeyboardInterrupt:
        click.echo(f"Resume with:  {resume_line()}")
        return 130


def _closed_loop(out: Path, seed: int, turns: int) -> int:
    from aloe_agents.runners.closed_loop import Scale, close_loop

    _, claims = close_loop(out, Scale(seed=seed, turns=turns))
    return 0 if all(claim.holds for claim in claims) else 1


def _simulated(out: Path, seed: int, turns: int, plain: bool) -> int:
    roles = ("role_player", "induction", "preferred", "rejected", "judge")
    overrides = {"run.seed": seed, "run.turns": turns, **{f"roles.{role}.endpoint": "scripted" for role in roles}}
    watched = not plain and sys.stdout.isatty()
    pools = [_grown(kind, out / "pools" / f"{kind}.jsonl", seed, plain) for kind in KINDS]
    users = sample_personas(pools[0], pools[1], 24, seed)
    code = simulate(load_config(None, overrides), users, out, plain=plain, latency=0.15 if watched else 0.0)
    if code == 130:  # which said with what to go on
        return code
    _show_scores(out, turns)
    _compared(out / "evaluation", seed, turns)
    click.echo(f"\nLook at a dialogue:   aloe watch {out}\nThe trees themselves: {out / 'trees.jsonl'}")
    return code


def _grown(kind: Kind, pool: Path, seed: int, plain: bool) -> list[str]:
    """A pool that grew from the package's seeds to twice its size."""
    config = load_config(None, {"run.seed": seed, "pool.target": 40, "pool.embedder": "lexical"}, POOL_ROLES)
    if grow(config, kind, pool, plain=plain, quiet=True) == 130:
        raise KeyboardInterrupt
    texts, _ = read_pool(pool)
    click.echo(f"{pool}: {len(texts)} {kind}, half of them proposed by a generator and unlike the rest")
    return texts


def _compared(out: Path, seed: int, turns: int) -> None:
    """Two scripted candidates on twenty of the package's cases: one takes up what its user told, one does not."""
    roles = {f"roles.{role}.endpoint": "scripted" for role in EVALUATION_ROLES}
    config = load_config(None, {"run.seed": seed, "run.turns": turns, **roles}, EVALUATION_ROLES)
    places = []
    for name in ("scripted-generic", "scripted-adaptive"):
        places.append(out / name)
        model, cases = Model(name, name), benchmark()[:20]
        if evaluate(config, model, cases, places[-1], source="the package's benchmark", quiet=True) == 130:
            raise KeyboardInterrupt
    click.echo()
    print_comparison(wide(), compare([read_results(place) for place in places]))


def _show_scores(out: Path, turns: int) -> None:
    """Mean judge scores by turn: what a persona known a little better with every turn is worth."""
    scores: dict[str, list[list[float]]] = {label: [[] for _ in range(turns)] for label in ("preferred", "rejected")}
    for tree in read_trees(out / "trees.jsonl"):
        for turn in tree.turns:
            for label, answer in turn.answers.items():
                if (score := answer.scores.get("judge")) is not None:
                    scores[label][turn.turn - 1].append(score)
    click.echo("\nmean score by turn  " + " ".join(f"{turn:>5}" for turn in range(1, turns + 1)))
    for label, by_turn in scores.items():
        click.echo(f"  {label:<17} " + " ".join(f"{sum(s) / len(s):5.2f}" if s else "    -" for s in by_turn))
