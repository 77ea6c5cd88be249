"""``aloe judge``: a finished run is scored again, by another judge or prompt; nothing else is asked."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from aloe_agents import building
from aloe_agents.config import SCRIPTED_MODELS, Config, load_config
from aloe_agents.engine.bus import Bus
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.evaluation.rejudging import Scores, rejudge, self_agreement
from aloe_agents.evaluation.results import RESULTS_FILE, cases_digest, cases_of, figures, read_results, write_results
from aloe_agents.files import replacing
from aloe_agents.personas import Persona
from aloe_agents.runners.terminal import interrupts, loop_runner, resume_line
from aloe_agents.runs.journal import Journal, differences
from aloe_agents.runs.reading import TREES
from aloe_agents.runs.recorder import Recorder
from aloe_agents.runs.run import describe
from aloe_agents.tree import Tree, read_trees

FOLDER = "judged"


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--judge", "endpoint", required=True, metavar="ENDPOINT", help="Who judges.")
@click.option("--config", type=click.Path(path_type=Path), help="The TOML file with the endpoint.")
@click.option("--name", help="What the judge is called in the results (default: as its endpoint).")
@click.option("--prompt", type=click.Path(path_type=Path), help="Another prompt than the built-in one.")
@click.option("--passes", type=click.IntRange(1), default=1, show_default=True, help="How often each answer is judged.")
@click.option("--expected", is_flag=True, help="Scores are expectations over the judge's digits.")
@click.option("--force", is_flag=True, help="Go on although settings were changed.")
def command(
    directory: Path,
    endpoint: str,
    config: Path | None,
    name: str | None,
    prompt: Path | None,
    passes: int,
    expected: bool,
    force: bool,
) -> int:
    """Score every answer of a finished run or evaluation again. The first scores stay as they are; the new ones go to
    DIR/judged/NAME: the trees with both, and of an evaluation a results.json that aloe compare reads.

    \b
    aloe judge evals/mine --judge big --config aloe.toml --passes 3
    """
    name = name or endpoint
    if not name.isprintable() or "/" in name or name in (".", ".."):
        raise ConfigError(f"a judge cannot be called {name!r}")
    trees = list(read_trees(_trees_in(directory)))
    if not trees:
        raise ConfigError(f"{directory} holds no tree that could be judged")
    if known := {
        judge for tree in trees for turn in tree.turns for one in turn.answers.values() for judge in one.scores
    } & {name}:
        raise ConfigError(
            f"{directory} has scores of a judge called {known.pop()!r}; call this one otherwise with --name"
        )
    changed: dict[str, Any] = {"roles.judge.endpoint": endpoint, "roles.judge.options.name": name}
    changed |= {"roles.judge.prompt": str(prompt.absolute())} if prompt else {}
    changed |= {"roles.judge.options.expected": True} if expected else {}
    resolved = load_config(config, changed, ("judge",))
    resolved = resolved.model_copy(update={"roles": {"judge": resolved.roles["judge"]}})
    if endpoint not in (*resolved.endpoints, *SCRIPTED_MODELS):
        raise ConfigError(f"the judge {endpoint!r} is no endpoint of the configuration")
    out = directory / FOLDER / name
    settings = {**building.role_settings(resolved), "trees": _digest(trees)}
    if (differing := differences(out, settings)) and not force:
        raise ConfigError(f"{out} holds another judgement: {'; '.join(differing)} (--name, or --force to do it again)")
    with contextlib.closing(Journal(out)) as journal, loop_runner() as runner:
        scores = runner.run(_judged(resolved, trees, passes, journal, settings, config))
    if scores is None:
        click.echo(f"Resume with:  {resume_line()}")
        return 130
    return _written(directory, out, trees, scores, name, passes, resolved)


def _trees_in(directory: Path) -> Path:
    if not (directory / TREES).is_file():
        raise ConfigError(f"{directory} holds no {TREES}: it is no finished run")
    return directory / TREES


async def _judged(
    config: Config, trees: list[Tree], passes: int, journal: Journal, settings: dict[str, str], path: Path | None
) -> Scores | None:
    endpoints = building.build_endpoints(config)
    (judge,) = building.build_cast(config, endpoints, path.parent.absolute() if path else None)
    described = {name: describe(endpoint) for name, endpoint in endpoints.items()}
    await journal.claim(seed=0, turns=1, requested=len(trees) * passes, settings=settings, endpoints=described)
    buses: list[Bus] = []
    task = asyncio.create_task(
        rejudge(
            trees,
            judge,
            passes=passes,
            live=building.live(config, endpoints),
            recorder=Recorder(journal),
            on_bus=buses.append,
        )
    )
    try:
        with interrupts(lambda: buses[0].stop(), task):
            await asyncio.wait([task])
        if task.cancelled() or (task.exception() is None and buses[0].stopped):
            return None
        if isinstance(fatal := task.exception(), Fatal):
            raise Fatal(f"{fatal}; what was answered is kept: run the same command again")
        await journal.finish({name: endpoint.slots.peak for name, endpoint in endpoints.items()})
        return task.result()
    finally:
        for endpoint in endpoints.values():
            await endpoint.close()


def _written(
    directory: Path, out: Path, trees: list[Tree], scores: Scores, name: str, passes: int, config: Config
) -> int:
    """Write the trees with their new scores, and of an evaluation its results."""
    judges = [name] if passes == 1 else [f"{name}-{n}" for n in range(1, passes + 1)]
    scored = copy.deepcopy(trees)
    for tree in scored:
        for turn in tree.turns:
            for label, answer in turn.answers.items():
                answer.scores |= dict(zip(judges, scores[tree.id, turn.path, label], strict=True))
    with replacing(out / TREES) as file:
        for tree in scored:
            file.write(tree.to_json() + b"\n")
    click.echo(f"{out / TREES}: {len(scored)} trees, {len(scores)} answers")
    missing = sum(score is None for row in scores.values() for score in row)
    agreement = self_agreement(scores) if passes > 1 and any(None not in row for row in scores.values()) else None
    if agreement:
        click.echo(
            f"{agreement.passes} passes over {agreement.answers} answers: standard deviation {agreement.deviation:.3f}, "
            f"equal {agreement.equal:.1%}, quadratic kappa {agreement.kappa:.3f}"
        )
    for label in dict.fromkeys(key[2] for key in scores):
        given = [score for key, row in scores.items() if key[2] == label for score in row if score is not None]
        click.echo(
            f"  {label:<12} mean {np.mean(given):.3f} of {len(given)} scores" if given else f"  {label:<12} no score"
        )
    if (directory / RESULTS_FILE).exists():
        first = read_results(directory)
        held = {tree.id: tree.persona for tree in trees}
        people = [held.get(id) or Persona(id=id, profile=id, personality="") for id in first.cases]
        rows = cases_of(scored, people, int(first.body["turns"]), judges)
        for row, before in zip(rows, first.body["per_case"], strict=True):
            row |= {"cluster": before["cluster"], "status": before["status"]}
        by = {part.removesuffix(" of judge"): value for part, value in building.role_settings(config).items()}
        body = {
            **first.body,
            "judged_by": dict.fromkeys(judges, by),
            "judges": figures(rows, first.body["normalisation"]),
            "judged_again": {
                "of": str(directory),
                "trees": cases_digest(held.values()),
                "passes": passes,
                "agreement": asdict(agreement) if agreement else None,
            },
            "per_case": rows,
        }
        write_results(out / RESULTS_FILE, body)
        click.echo(str(out / RESULTS_FILE))
    if missing:
        click.echo(f"aloe: {missing} scores are missing", err=True)
    return 1 if missing else 0


def _digest(trees: list[Tree]) -> str:
    digest = hashlib.sha256()
    for tree in trees:
        for turn in tree.turns:
            digest.update(
                repr((tree.id, turn.path, turn.user, [(k, a.text) for k, a in turn.answers.items()])).encode()
            )
    return f"{len(trees)} (digest {digest.hexdigest()[:12]})"
