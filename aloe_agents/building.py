"""From a configuration to live parts: the one place where endpoints, roles and expansion are wired together."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aloe_agents import roles
from aloe_agents.config import AUTO, SCRIPTED, SCRIPTED_MODELS, Config, EndpointTable, RoleTable, api_key
from aloe_agents.engine.agent import Agent
from aloe_agents.engine.expansion import Beam, Full, RandomPath
from aloe_agents.engine.wiring import Expansion, check, says
from aloe_agents.errors import AloeError, ConfigError
from aloe_agents.messages import Scored
from aloe_agents.model import ChatModel
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.http import HttpModel, is_loopback
from aloe_agents.models.openai import NO_KEY, OpenAIModel, connections
from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.personas import Persona, personas_of, read_personas
from aloe_agents.runs.run import live_for
from aloe_agents.runs.settings import cast_settings, settings_of

if TYPE_CHECKING:
    from aloe_agents.pools.embedding import Embedder  # numpy: not for those who embed nothing

log = logging.getLogger(__name__)

_CLASSES: Mapping[str, type] = {
    "role_player": roles.RolePlayer,
    "induction": roles.Induction,
    "preferred": roles.Preferred,
    "rejected": roles.Rejected,
    "judge": roles.Judge,
    "generator": roles.Generator,
    "candidate": roles.Candidate,
}


@dataclass(frozen=True)
class Parts:
    """What a simulation is made of. Close its connections with ``async with parts:``, or ``await parts.close()``."""

    cast: list[Agent]
    expansion: Expansion
    endpoints: dict[str, Endpoint]
    personas: list[Persona] | None = None
    """Those of ``run.personas``, where the configuration has any."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of the endpoints; a later call opens new ones."""
        for endpoint in self.endpoints.values():
            await endpoint.close()


def build(config: Config, folder: Path | None = None, latency: float = 0.0, share: float = 1.0) -> Parts:
    """The live parts that ``config`` describes.

    ``folder`` is where your own classes are looked for first (default: the configuration's folder). ``latency`` is how
    many seconds the built-in scripted model takes for an answer. ``share`` is the part of the endpoints' paces that this
    process may use.

    Raises ConfigError if a key's variable is not set, a class or prompt cannot be loaded, or the cast cannot play.
    """
    endpoints = build_endpoints(config, latency, share, folder)
    cast, expansion = build_cast(config, endpoints, folder), build_expansion(config, folder)
    check([*cast, expansion], expansion.labels)
    return Parts(cast, expansion, endpoints, configured_personas(config))


def configured_personas(config: Config) -> list[Persona] | None:
    """The personas of ``run.personas``; None where the configuration has none."""
    given = config.run.personas
    if given is None:
        return None
    if isinstance(given, str):
        return read_personas(given)
    return personas_of((f"run.personas, item {n}", value) for n, value in enumerate(given, 1))


def build_endpoints(
    config: Config, latency: float = 0.0, share: float = 1.0, folder: Path | None = None
) -> dict[str, Endpoint]:
    """The endpoints that the roles use, by name. Raises ConfigError if a key's variable is not set."""
    used = {role.endpoint for role in config.roles.values() if role.endpoint}
    folder = folder or config.folder
    endpoints = {
        name: _endpoint(name, table, share, folder) for name, table in config.endpoints.items() if name in used
    }
    for name in sorted(used & {*SCRIPTED_MODELS}):
        model = ScriptedModel(name, latency, adaptive=name.endswith("adaptive"))
        endpoints[name] = Endpoint(name, [model], Limits(capacity=64))
    return endpoints


def live(config: Config, endpoints: Mapping[str, Endpoint]) -> int:
    """How many conversations to hold at once: ``run.live``, or what keeps the endpoints busy (``runs.run.live_for``)."""
    return config.run.live if config.run.live != AUTO else live_for(endpoints.values())


def build_cast(config: Config, endpoints: Mapping[str, Endpoint], folder: Path | None = None) -> list[Agent]:
    """One agent for each configured role. ``folder`` is where your own classes are looked for first."""
    return [_agent(name, role, endpoints, folder or config.folder) for name, role in config.roles.items()]


def _agent(name: str, role: RoleTable, endpoints: Mapping[str, Endpoint], folder: Path | None) -> Agent:
    cls = _load(f"role {name!r}", role.class_, folder) if role.class_ else _CLASSES[name]
    arguments: dict[str, object] = dict(role.options)
    if "name" in _parameters(cls):
        arguments.setdefault("name", name)
    if role.endpoint:
        endpoint = endpoints[role.endpoint]
        arguments["model"] = endpoint.using(role.sampling) if role.sampling else endpoint
    if role.prompt:
        arguments["prompt"] = role.prompt
    agent: Agent = _made(f"role {name!r}", cls, arguments)
    return agent


def _made(what: str, cls: Callable[..., Any], arguments: Mapping[str, object]) -> Any:
    """An object of ``cls``. Raises ConfigError where the arguments do not fit; an error inside of the class is its own."""
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{what} cannot be made from {cls.__name__}: {error}") from None
    return cls(**arguments)


def _parameters(cls: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(cls).parameters
    except ValueError:  # built in, so nothing is known
        return {}


def judges(config: Config, folder: Path | None = None) -> dict[str, str]:
    """The roles whose agents say ``Scored``, by the agents' names; of those that do not tell, roles called judge.

    Raises ConfigError where there is none.
    """
    nowhere = Endpoint(SCRIPTED, [ScriptedModel()])  # nothing is asked, so no key is needed
    cast = build_cast(config, defaultdict(lambda: nowhere), folder)
    found = {}
    for name, agent in zip(config.roles, cast, strict=True):
        said = says(agent)
        if name.partition("-")[0] == "judge" if said is None else any(kind is Scored for kind, _ in said):
            found[agent.name] = name
    if not found:
        raise ConfigError("nobody gives scores: no role of the configuration says Scored")
    return found


def build_expansion(config: Config, folder: Path | None = None) -> Expansion:
    """The expansion that ``[run]`` names."""
    run = config.run
    if "candidate" in config.roles and run.cast is None:
        return RandomPath(("candidate",))  # one answer, so no choice
    labels = tuple(run.labels)
    match run.expansion:
        case "full":
            return Full(run.depth, labels)
        case "beam":
            return Beam(run.width, labels=labels)
        case "random-path":
            return RandomPath(labels)
    kind = _load("expansion", run.expansion, folder or config.folder)
    offered = {"labels": labels, "depth": run.depth, "width": run.width}
    expansion: Expansion = _made("expansion", kind, {k: v for k, v in offered.items() if k in _parameters(kind)})
    return expansion


def settings(config: Config, personas: Sequence[Persona], folder: Path | None = None) -> dict[str, str]:
    """What a run's answers depend on, by name (``runs.settings``): two runs with equal settings are one run."""
    parts = build(config, folder)
    return settings_of(parts.cast, parts.expansion, personas, turns=config.run.turns, seed=config.run.seed)


def role_settings(config: Config, folder: Path | None = None) -> dict[str, str]:
    """What the roles' answers depend on, by name."""
    return cast_settings(build_cast(config, build_endpoints(config, folder=folder), folder))


def build_embedder(spec: str, config: Config, folder: Path | None = None) -> Embedder:
    """The embedder that ``spec`` names: ``lexical``, ``endpoint:NAME``, ``module:thing``, or else a model of
    sentence-transformers.

    Raises ConfigError where it is missing or cannot be loaded.
    """
    from aloe_agents.pools.embedding import EndpointEmbedder, LexicalEmbedder, SentenceEmbedder

    kind, _, name = spec.partition(":")
    if spec == LexicalEmbedder.name:
        return LexicalEmbedder()
    if kind == "endpoint":
        name = name.partition(":")[0]
        if (table := config.endpoints.get(name)) is None:
            raise ConfigError(f"the embedder {spec!r} names an endpoint {name!r} that the configuration does not have")
        key, key_from = api_key(name, table), table.api_key_env or ""
        identity = f"endpoint:{name}:{table.model}"
        return EndpointEmbedder(table.urls[0], table.model, name=identity, key=key, key_from=key_from)
    if name:
        thing = _load("embedder", spec, folder or config.folder)
        if isinstance(thing, type) or not (hasattr(thing, "embed") or hasattr(thing, "encode")):
            thing = thing()  # a class, or a function that makes one
        embedder: Embedder = thing if hasattr(thing, "embed") else SentenceEmbedder(thing, spec)
        return embedder
    return SentenceEmbedder(spec)


def _load(what: str, dotted: str, folder: Path | None) -> Any:
    """What ``module:Name`` names, for the part ``what``. Raises ConfigError where it cannot be loaded."""
    module, _, attribute = dotted.partition(":")
    if not module or not attribute:
        raise ConfigError(f"{what}: {dotted!r} is not module:Class")
    for place in (Path.cwd(), folder):
        if place is not None and str(place) not in sys.path:
            sys.path.insert(0, str(place))
    try:
        return getattr(importlib.import_module(module), attribute)
    except AloeError as error:  # a message kind that is taken, say
        raise ConfigError(f"{what}: cannot load {dotted}: {error}") from None
    except Exception as error:
        log.debug("cannot load %s", dotted, exc_info=True)
        said = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{what}: cannot load {dotted}: {said}{_line_of(error, module)}") from None


def _line_of(error: BaseException, module: str) -> str:
    """Where in the loaded module an error was raised, in words; nothing where it was raised elsewhere."""
    file = module.replace(".", "/") + ".py"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    return f" ({file}, line {lines[-1]})" if lines else ""


def _endpoint(name: str, table: EndpointTable, share: float, folder: Path | None) -> Endpoint:
    if ":" in table.client:
        replicas = _own_replicas(name, table, folder)
    else:
        key, key_from = api_key(name, table), table.api_key_env or ""
        replicas = [_replica(url, table, key, key_from) for url in table.urls]
    limits = Limits(
        capacity=None if table.capacity == AUTO else table.capacity,
        requests_per_minute=table.requests_per_minute and table.requests_per_minute * share,
        tokens_per_minute=table.tokens_per_minute and table.tokens_per_minute * share,
        timeout=table.timeout,
        deadline=table.deadline,
        attempts=table.attempts,
        patience=table.patience,
    )
    return Endpoint(name, replicas, limits, sampling=table.sampling, price=(table.price.input, table.price.output))


def _own_replicas(name: str, table: EndpointTable, folder: Path | None) -> list[ChatModel]:
    """The model that ``client = "module:Class"`` makes, one for each URL; it gets what its constructor asks for."""
    cls = _load(f"endpoint {name!r}", table.client, folder)
    wanted = _parameters(cls)
    made = []
    for url in table.urls if "base_url" in wanted and table.base_url else ("",):
        offered: dict[str, object] = {"base_url": url, "model": table.model, "name": table.model or name}
        if "key" in wanted:
            offered["key"] = api_key(name, table)
        arguments = {key: value for key, value in offered.items() if key in wanted and value != ""} | table.options
        made.append(_made(f"endpoint {name!r}", cls, arguments))
    return made


def _replica(url: str, table: EndpointTable, key: str, key_from: str) -> ChatModel:
    if table.client == "http":
        return HttpModel(url, table.model, key=key, key_from=key_from)
    import openai

    shared: dict[str, Any] = {"api_key": key or NO_KEY, "http_client": connections(trust_env=not is_loopback(url))}
    if table.client == "openai":
        return OpenAIModel(openai.AsyncOpenAI(base_url=url, **shared), table.model, key_from=key_from)
    azure = openai.AsyncAzureOpenAI(
        azure_endpoint=url, azure_deployment=table.model, api_version=table.api_version, **shared
    )
    return OpenAIModel(azure, table.model, key_from=key_from)
