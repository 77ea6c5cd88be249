"""``aloe judge``: a finished run is scored again, by another judge or prompt; nothing else is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from aloe_agents import building
from aloe_agents.config import SCRIPTED_MODELS, Config, load_config
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.evaluation.rejudging import FOLDER, Rejudged, one_run, rejudge
from aloe_agents.runners.terminal import Live, loop_runner, resume_line, unread, watched
from aloe_agents.runs.console import Terminal
from aloe_agents.runs.reading import TREES
from aloe_agents.runs.run import OtherSettings


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--judge", "endpoint", required=True, metavar="ENDPOINT", help="The endpoint that judges.")
@click.option("--config", type=click.Path(path_type=Path), help="The TOML file that has the endpoint.")
@click.option("--name", help="What to call the judge in the results. Default: its endpoint's name.")
@click.option("--prompt", type=click.Path(path_type=Path), help="A prompt file, instead of the built-in prompt.")
@click.option("--passes", type=click.IntRange(1), default=1, show_default=True, help="Judge every answer N times.",
              metavar="N")  # fmt: skip
@click.option("--expected", is_flag=True,
              help="Score by the mean over the judge's digits, weighted by their probabilities.")  # fmt: skip
@click.option("--force", is_flag=True, help="Go on although settings have changed.")
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
    """Score every answer of a finished run or evaluation again. The first scores stay as they are. The new ones go to
    DIR/judged/NAME: the trees with both, and for an evaluation a results.json that aloe compare reads.

    \b
    aloe judge evals/mine --judge big --config aloe.toml --passes 3
    """
    one_run(directory)
    name = name or endpoint
    resolved = _configured(config, endpoint, name, prompt, expected)
    found: list[Rejudged] = []

    async def work(on_open: Callable[[Live], None]) -> None:
        endpoints = building.build_endpoints(resolved)
        (judge,) = building.build_cast(resolved, endpoints)
        live = building.live(resolved, endpoints)
        found.append(
            await rejudge(directory, judge, passes=passes, live=live, force=force, keep_open=False, on_open=on_open)
        )

    try:
        with loop_runner() as runner:
            live, error = runner.run(watched(work, Terminal(quiet=True)))
    except OtherSettings as other:
        raise ConfigError(
            f"{other.directory} holds another judgement: {'; '.join(other.differing)}. "
            "Choose another --name, or --force to do it again"
        ) from None
    if isinstance(error, Fatal):
        raise Fatal(f"{error}; all answers are kept: run the same command again")
    if error:
        raise error
    if live.stopped or not found:
        click.echo(f"Resume with:  {resume_line()}")
        return 130
    return _told(found[0], directory / FOLDER / name)


def _configured(config: Path | None, endpoint: str, name: str, prompt: Path | None, expected: bool) -> Config:
    """The configuration with nothing but the judge."""
    changed: dict[str, object] = {"roles.judge.endpoint": endpoint, "roles.judge.options.name": name}
    changed |= {"roles.judge.prompt": str(prompt.absolute())} if prompt else {}
    changed |= {"roles.judge.options.expected": True} if expected else {}
    resolved = load_config(config, changed, ("judge",))
    if endpoint not in (*resolved.endpoints, *SCRIPTED_MODELS):
        raise ConfigError(f"the judge {endpoint!r} is not an endpoint of the configuration")
    return resolved.model_copy(update={"roles": {"judge": resolved.roles["judge"]}})


def _told(found: Rejudged, out: Path) -> int:
    """Print what came of it. Returns the exit code: 1 if scores are missing."""
    answers = len(found.scores) // len(found.names)
    click.echo(f"{out / TREES}: {len(found.trees)} trees, {answers} answers")
    if agreement := found.agreement:
        kappa = "nan" if agreement.kappa is None else f"{agreement.kappa:.3f}"
        click.echo(
            f"{agreement.passes} passes over {agreement.answers} answers: standard deviation {agreement.deviation:.3f}, "
            f"equal {agreement.equal:.1%}, quadratic kappa {kappa}"
        )
    for label, name, mean, count in found.means():
        shown = f"{label} {name}" if len(found.names) > 1 else label
        click.echo(f"  {shown:<12} " + (f"mean {mean:.3f} of {count} scores" if mean is not None else "no score"))
    if found.results:
        click.echo(str(found.results.path))
    if found.unread:
        unread(found.unread, out)
    elif found.missing:
        click.echo(f"aloe: {found.missing} scores are missing", err=True)
    return 1 if found.missing else 0
