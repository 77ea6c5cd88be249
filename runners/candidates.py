"""From a configuration to what an evaluation needs: the model under test, its server, the judges of a panel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from aloe_agents import building
from aloe_agents.config import SCRIPTED_MODELS, Config, EndpointTable, RoleTable
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.evaluation import evaluating
from aloe_agents.evaluation.evaluating import is_over
from aloe_agents.evaluation.records import ModelRecord
from aloe_agents.models.serving import FETCH, LocalModel, last_lines, local_model, served
from aloe_agents.personas import Persona
from aloe_agents.text import inert

LOG = "vllm.log"
NOWHERE = "http://127.0.0.1:1/v1"
"""Stands for the URL of a server that is not needed."""
_JUDGE = "aloe_agents.roles:Judge"


@dataclass(frozen=True)
class Model:
    """A model to evaluate: an endpoint of the configuration, or a directory to serve."""

    name: str
    endpoint: str
    local: LocalModel | None = None

    def record(self, vllm_options: Sequence[str] = ()) -> ModelRecord:
        """The model as the results describe it."""
        if self.local is None:
            return ModelRecord(name=self.name, endpoint=self.endpoint)
        base = self.local.base
        return ModelRecord(
            name=self.name,
            endpoint=self.endpoint,
            directory=str(self.local.path),
            base=str(base) if base else None,
            vllm=tuple(vllm_options),
        )


def in_directory(path: Path) -> Model:
    """The model in the directory ``path``. Raises ConfigError if there is none."""
    local = local_model(path)
    return Model(local.path.name, local.name, local)


def model_named(given: str, config: Config) -> Model:
    """The model that was asked for. Raises ConfigError if it is neither an endpoint nor a model's directory."""
    if given in config.endpoints or given in SCRIPTED_MODELS:
        return Model(given, given)
    path = Path(given)
    if path.is_dir():
        return in_directory(path)
    known = ", ".join([*config.endpoints, *SCRIPTED_MODELS])
    raise ConfigError(f"the model {given!r} is neither a directory nor an endpoint (there are {known}); {FETCH}")


def places_for(models: Sequence[Model], out: Path) -> list[Path]:
    """The directory of each model's evaluation: ``out``, or with several a folder in it for each.

    Raises ConfigError if a model is given twice.
    """
    places = [out] if len(models) == 1 else [out / model.name for model in models]
    if len({*places}) < len(places):  # directories that share a name
        places = [out / model.endpoint for model in models]
    if len({*places}) < len(places):
        raise ConfigError("a model is given twice")
    return places


def with_panel(config: Config, judges: Sequence[str], expected: bool) -> Config:
    """The configuration with a judge for each endpoint of a panel."""
    roles = dict(config.roles)
    first = roles["judge"]
    if expected:
        first = first.model_copy(update={"options": {**first.options, "expected": True}})
    roles["judge"] = first
    if len(judges) > 1:
        del roles["judge"]
        known = {*config.endpoints, *SCRIPTED_MODELS}
        for name in judges:
            if name not in known:
                raise ConfigError(f"the judge {name!r} is not an endpoint (there are {', '.join(sorted(known))})")
            options = {**first.options, "name": f"judge-{name}"}
            roles[f"judge-{name}"] = first.model_copy(
                update={"endpoint": name, "class_": first.class_ or _JUDGE, "options": options}
            )
    return config.model_copy(update={"roles": roles})


def with_candidate(config: Config, model: Model, url: str) -> Config:
    """The configuration with ``model`` as its candidate, served at ``url`` if it is a directory."""
    role = config.roles.get("candidate", RoleTable())
    endpoints = dict(config.endpoints)
    if model.local:
        endpoints[model.endpoint] = EndpointTable(base_url=url, model=model.endpoint, patience=120.0)
    table = endpoints.get(model.endpoint)
    said = {**(table.sampling if table else {}), **role.sampling}
    if not {"max_tokens", "max_completion_tokens"} & said.keys():
        role = role.model_copy(update={"sampling": {**role.sampling, "max_tokens": evaluating.MAX_TOKENS}})
    roles = {**config.roles, "candidate": role.model_copy(update={"endpoint": model.endpoint})}
    return config.model_copy(update={"endpoints": endpoints, "roles": roles})


@contextlib.contextmanager
def reachable(
    config: Config, model: Model, cases: Sequence[Persona], out: Path, options: Sequence[str]
) -> Iterator[Callable[[], str]]:
    """Serve a directory's model for as long as the block lasts, unless its evaluation is over. Yields at once what
    waits for its base URL.
    """
    if model.local is None or was_done(with_candidate(config, model, NOWHERE), cases, out):
        yield lambda: NOWHERE
        return
    log = out / LOG
    try:
        with served(model.local, log, options=options) as url:
            click.echo(f"aloe: vLLM is loading {model.local.path} (its log: {log})", err=True)
            yield url
    except Fatal:
        for line in last_lines(log):
            click.echo(f"  {inert(line)}", err=True)
        raise


def was_done(config: Config, cases: Sequence[Persona], out: Path) -> bool:
    """Whether ``out`` holds this evaluation, at its end and with all cases completed."""
    try:
        return is_over(out, building.settings(config, cases), len(cases))
    except ConfigError:
        return False
