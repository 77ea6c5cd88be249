"""``aloe evaluate``: the ALOE benchmark (paper, section 3). Simulated users talk to a model, a judge scores it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from aloe_agents import building
from aloe_agents.config import EVALUATION_ROLES, SCRIPTED, SCRIPTED_MODELS, Config, load_config, parse_override
from aloe_agents.evaluation import evaluating
from aloe_agents.evaluation.benchmark import benchmark
from aloe_agents.evaluation.comparison import compare
from aloe_agents.evaluation.metrics import Normalisation
from aloe_agents.evaluation.results import RESULTS_FILE, Results, read_results
from aloe_agents.personas import Persona, read_personas
from aloe_agents.runners.candidates import (
    NOWHERE,
    Model,
    model_named,
    places_for,
    reachable,
    with_candidate,
    with_panel,
)
from aloe_agents.runners.compare import print_comparison, wide
from aloe_agents.runners.simulate import shown
from aloe_agents.runners.terminal import Live, loop_runner, told_in_options
from aloe_agents.runs.run import check_settings


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, required=True, metavar="MODEL",
              help="An endpoint, or the directory of a transformers model or a LoRA adapter. Repeat for several.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True,
              help="The run's directory; several models get a folder each in it.")  # fmt: skip
@click.option("--cases", type=click.Path(path_type=Path), help="Personas (JSONL). Default: the package's 100.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Use only the first N cases.")
@click.option("--turns", type=click.IntRange(1), help="Turns per conversation, K (run.turns; default: 10).")
@click.option("--seed", type=int, help="Random seed (run.seed).")
@click.option("--user", metavar="ENDPOINT", help="Plays the users, instead of roles.role_player's endpoint.")
@click.option("--judge", "judges", multiple=True, metavar="ENDPOINT",
              help="Judges, instead of roles.judge's endpoint. Repeat for a panel.")  # fmt: skip
@click.option("--expected", is_flag=True,
              help="Score by the mean over the judge's digits, weighted by their probabilities.")  # fmt: skip
@click.option("--system", type=click.Path(path_type=Path), help="A prompt file with a ## system section for the model.")
@click.option("--overflow", type=click.Choice(["cut", "fail"]),
              help="If the model's context is full: leave out its oldest turns (default), or fail.")  # fmt: skip
@click.option("--normalisation", type=click.Choice(["all", "running"]), default="all", show_default=True,
              help="Scale AL by its extremes over all turns, or over the turns so far.")  # fmt: skip
@click.option("--vllm", "vllm_options", default="", metavar="OPTIONS", help="Add OPTIONS to vLLM's command line.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any key, such as run.live=64.")
@click.option("--force", is_flag=True, help="Go on in a directory whose run had other settings.")
@click.option("--plain", is_flag=True, help="Print plain lines instead of the live display.")
def command(
    config: Path | None,
    models: Sequence[str],
    out: Path,
    cases: Path | None,
    count: int | None,
    judges: Sequence[str],
    expected: bool,
    normalisation: Normalisation,
    vllm_options: str,
    overrides: Sequence[str],
    force: bool,
    plain: bool,
    **flags: object,
) -> int:
    """Measure how well models adapt to the user they talk to: AL(k), its average, IR, R2, N-IR, N-R2.

    \b
    aloe evaluate --model scripted-adaptive --model scripted-generic --out evals/scripted
    aloe evaluate aloe.toml --model ./my-model --judge big --out evals/mine
    """
    found = [model_named(name, load_config(config, needed=())) for name in models]
    changed = _changed(config, models[0], judges, overrides, flags)
    resolved = with_panel(load_config(config, changed, EVALUATION_ROLES), judges, expected)
    people = (read_personas(cases) if cases else benchmark())[:count]
    places = places_for(found, out)
    for model, place in zip(found, places, strict=True):  # all that can be refused is refused before the first begins
        with told_in_options():
            check_settings(place, building.settings(with_candidate(resolved, model, NOWHERE), people), force)
    worst = 0
    for model, place in zip(found, places, strict=True):
        code = evaluate(
            resolved,
            model,
            people,
            place,
            source=str(cases) if cases else evaluating.SOURCE,
            normalisation=normalisation,
            force=force,
            plain=plain,
            vllm_options=shlex.split(vllm_options),
        )
        if code == 130:
            return code
        worst = max(worst, code)
    print_comparison(wide(), compare([read_results(p) for p in places], normalisation=normalisation, force=True))
    return worst


def evaluate(
    config: Config,
    model: Model,
    cases: Sequence[Persona],
    out: Path,
    *,
    source: str,
    normalisation: Normalisation = "all",
    force: bool = False,
    plain: bool = False,
    quiet: bool = False,
    vllm_options: Sequence[str] = (),
    url: Callable[[], str] | None = None,
) -> int:
    """Evaluate one model on ``cases`` in the directory ``out``, showing it unless ``quiet``. Returns the exit code.

    ``url`` is what :func:`reachable` yields, for a caller that has entered it.
    """
    results: list[Results] = []
    with contextlib.nullcontext(url) if url else reachable(config, model, cases, out, vllm_options) as found:
        resolved = with_candidate(config, model, found())
        parts = building.build(resolved)
        cast = dict(zip(resolved.roles, parts.cast, strict=True))
        scoring = building.judges(resolved).values()

        async def work(on_open: Callable[[Live], None]) -> None:
            done = await evaluating.evaluate(
                cast["candidate"],
                judges=[cast[role] for role in scoring],
                user=cast["role_player"],
                others=[a for role, a in cast.items() if role not in {"candidate", "role_player", *scoring}],
                cases=cases,
                out=out,
                turns=resolved.run.turns,
                seed=resolved.run.seed,
                live=building.live(resolved, parts.endpoints),
                normalisation=normalisation,
                model=model.record(vllm_options),
                source=source,
                force=force,
                keep_open=False,
                on_open=on_open,
            )
            results.append(done)

        with loop_runner() as runner, told_in_options():
            code = runner.run(shown(work, resolved, out, plain, quiet))
    if code == 130:
        return code
    if not quiet:
        click.echo(f"{out / RESULTS_FILE}")
    return max(code, 1 if any(one.unread() for one in results) else 0)


def _changed(
    config: Path | None, model: str, judges: Sequence[str], overrides: Sequence[str], flags: dict[str, object]
) -> dict[str, object]:
    """The keys of the configuration that the options set."""
    options = {
        "turns": "run.turns",
        "seed": "run.seed",
        "user": "roles.role_player.endpoint",
        "overflow": "roles.candidate.options.overflow",
    }
    changed: dict[str, object] = dict(parse_override(text) for text in overrides)
    changed |= {key: flags[name] for name, key in options.items() if flags[name] is not None}
    if isinstance(system := flags["system"], Path):
        changed["roles.candidate.prompt"] = str(system.absolute())
    if judges:
        changed["roles.judge.endpoint"] = judges[0]
    changed["roles.candidate.endpoint"] = model if not Path(model).is_dir() else SCRIPTED_MODELS[0]
    for role in EVALUATION_ROLES:  # without a configuration they are scripted
        if config is None and f"roles.{role}.class" not in changed:
            changed.setdefault(f"roles.{role}.endpoint", SCRIPTED)
    return changed
