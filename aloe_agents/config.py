"""The configuration: one TOML file, every key with a default, checked as a whole before anything is done.

What cannot be used is refused in one line that names the key and, for an unknown one, the nearest that exists.
Keys of servers are named here by the environment variable that holds them; they are never written in the file.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from aloe_agents.errors import ConfigError
from aloe_agents.model import RESERVED
from aloe_agents.models.http import is_loopback
from aloe_agents.text import one_line

SCRIPTED = "scripted"
"""The endpoint that is always there: the built-in scripted model, in process."""
SCRIPTED_MODELS = (SCRIPTED, "scripted-generic", "scripted-adaptive")
"""Always there, too, as models to be evaluated: one answers everybody the same, one takes up what its user told."""
AUTO: Final = "auto"
EXPANSIONS = ("random-path", "full", "beam")
CLIENTS = ("http", "openai", "azure")
BUILT_IN_ROLES = ("role_player", "induction", "preferred", "rejected", "judge", "generator", "candidate")
NEEDED_ROLES = BUILT_IN_ROLES[:4]
"""Of a run that builds data."""
POOL_ROLES = ("generator",)
"""Of pools that grow."""
EVALUATION_ROLES = ("role_player", "judge")
"""Of an evaluation, with the candidate."""
_UNUSED = {
    NEEDED_ROLES: ("generator", "candidate"),
    EVALUATION_ROLES: ("induction", "preferred", "rejected", "generator"),
}

Positive = Annotated[int, Field(ge=1, lt=2**31)]
PositiveNumber = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Similar = Annotated[float, Field(ge=-1, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RunTable(_Table):
    """``[run]``"""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    turns: Positive = 10
    """K: turns of a conversation."""
    cast: list[str] | None = None
    """The roles that take part; default: the paper's four and every other role of the file."""
    labels: list[str] = ["preferred", "rejected"]
    """The answers that the expansion chooses among."""
    expansion: str = "random-path"
    """``random-path``, ``full``, ``beam``, or ``module:Class``."""
    depth: Positive = 2
    """How many turns branch, in a full expansion."""
    width: Positive = 2
    """How many nodes a beam keeps."""
    live: Positive | Literal["auto"] = AUTO
    """Conversations at once, counted by their open leaves; ``auto``: four times what the endpoints take."""
    personas: str | list[dict[str, object]] | None = None
    """A JSONL file of personas, relative to the configuration, or the personas themselves."""


class PriceTable(_Table):
    """Money per million tokens."""

    input: Annotated[float, Field(ge=0)] = 0.0
    output: Annotated[float, Field(ge=0)] = 0.0


class EndpointTable(_Table):
    """``[endpoints.NAME]``"""

    base_url: str | list[str] = ""
    """One URL, or one for each replica."""
    model: str = ""
    client: str = "http"
    """How it is reached: ``http`` (directly), ``openai`` or ``azure`` (through the openai SDK, where its authentication is
    needed; for Azure base_url is the resource's, without /v1), or ``module:Class``, a ChatModel."""
    options: dict[str, object] = {}
    """Further arguments of a client's class."""
    api_version: str | None = None
    """Azure's."""
    api_key_env: str | None = None
    """The environment variable with the key; "" for a server that wants none."""
    capacity: Positive | Literal["auto"] = AUTO
    """Calls in flight; found out where it is not given."""
    requests_per_minute: PositiveNumber | None = None
    tokens_per_minute: PositiveNumber | None = None
    timeout: PositiveNumber = 120.0
    deadline: PositiveNumber = 600.0
    attempts: Positive = 6
    patience: PositiveNumber = 900.0
    """Seconds for which it may answer nobody before the run ends."""
    price: PriceTable = PriceTable()
    sampling: dict[str, object] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of its replicas."""
        return (self.base_url,) if isinstance(self.base_url, str) else tuple(self.base_url)


class RoleTable(_Table):
    """``[roles.NAME]``"""

    endpoint: str | None = None
    class_: str | None = Field(default=None, alias="class")
    """``module:Class``, to swap a built-in role or to add one."""
    prompt: str | None = None
    """A prompt file, relative to the configuration."""
    sampling: dict[str, object] = {}
    """On top of the endpoint's."""
    options: dict[str, object] = {}
    """Further arguments of the role's class."""


class PoolTable(_Table):
    """``[pool]``: how pools grow and are compared."""

    target: Positive | None = None
    """Members at which growth ends; default: the paper's 330 profiles or 71 personalities."""
    examples: Positive = 5
    wanted: Positive = 20
    """Items that a round asks for."""
    ahead: Positive = 4
    """Rounds under way at once."""
    bottleneck: Share = 0.05
    window: Positive = 5
    """Rounds over which the share of new items is taken; it ends growth below ``bottleneck``."""
    threshold: Similar = 0.6
    similarity: Literal["centred", "raw", "off"] = "centred"
    embedder: str | None = None
    """A model of sentence-transformers, ``lexical``, ``endpoint:NAME`` or ``module:thing``; default: what the pool's
    vectors were made with, or else all-MiniLM-L6-v2."""
    calls: Positive | None = None
    """Budget of a growth; so are the next two."""
    tokens: Positive | None = None
    money: PositiveNumber | None = None


class Config(_Table):
    """The whole file."""

    run: RunTable = RunTable()
    pool: PoolTable = PoolTable()
    endpoints: dict[str, EndpointTable] = {}
    roles: dict[str, RoleTable] = {}
    _folder: Path | None = PrivateAttr(None)

    @property
    def folder(self) -> Path | None:
        """The folder of the file that it was read from: classes of ``module:Class`` are looked for there first."""
        return self._folder

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, wherever they were read from."""
        return isinstance(other, Config) and self.model_dump() == other.model_dump()

    def to_toml(self) -> str:
        """The resolved configuration. It holds no secret, since none can be in it."""
        return tomli_w.dumps(self.model_dump(by_alias=True, exclude_none=True))


def load_config(
    path: Path | str | None = None,
    overrides: Mapping[str, object] | None = None,
    needed: Sequence[str] = NEEDED_ROLES,
) -> Config:
    """The configuration in ``path`` (none: all defaults), with dotted ``overrides`` (``{"run.turns": 3}``) on top.

    ``needed`` are the roles without which there is nothing to do; roles that have no part in it are left out. A file that
    names its own ``run.cast`` needs those instead.

    Raises ConfigError for whatever cannot be used.
    """
    path = None if path is None else Path(path)
    where = str(path) if path else "the configuration"
    table = _table_of(path)
    bare = not table.get("roles") and not table.get("endpoints")
    _override(table, overrides or {})
    try:
        config = Config.model_validate(table)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None
    needed = _needed(config, needed)
    if bare and not config.endpoints:
        config = config.model_copy(update={"roles": _with_scripted(config, needed)})
    _check(config, where, needed)
    base = path.parent if path else Path()
    roles = {name: _resolved(config.roles[name], base) for name in _taking_part(config, needed)}
    run = config.run
    if isinstance(run.personas, str):
        run = run.model_copy(update={"personas": str((base / run.personas).absolute())})
    config = config.model_copy(update={"roles": roles, "run": run})
    config._folder = path.parent.absolute() if path else None
    return config


def _table_of(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _override(table: dict[str, object], overrides: Mapping[str, object]) -> None:
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        inner = table
        for parent in parents:
            below = inner.setdefault(parent, {})
            if not isinstance(below, dict):
                raise ConfigError(f"cannot set {dotted}: {parent} is not a table")
            inner = below
        inner[last] = value


def _needed(config: Config, needed: Sequence[str]) -> Sequence[str]:
    """The roles without which there is nothing to do: those of the file's own cast, if it names one."""
    own = config.run.cast is not None and tuple(needed) == NEEDED_ROLES
    return tuple(config.run.cast or ()) if own else needed


def _with_scripted(config: Config, needed: Sequence[str]) -> dict[str, RoleTable]:
    """Roles for a configuration without endpoints: the scripted model plays all that have no class of their own."""
    roles = _scripted_roles(config.run.expansion, needed)
    for name, role in config.roles.items():
        plain = role.endpoint is None and role.class_ is None
        roles[name] = role.model_copy(update={"endpoint": SCRIPTED}) if plain else role
    return roles


def _taking_part(config: Config, needed: Sequence[str]) -> list[str]:
    """The names of the roles that take part, in the order of the file, or of ``run.cast``."""
    if config.run.cast is not None and tuple(needed) == tuple(config.run.cast):
        return list(config.run.cast)
    unused = _UNUSED.get(tuple(needed), ())
    return [n for n in config.roles if (n in POOL_ROLES if tuple(needed) == POOL_ROLES else n not in unused)]


def parse_override(text: str) -> tuple[str, object]:
    """``KEY=VALUE`` taken apart; the value is TOML, or else a plain string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r} is not KEY=VALUE, such as run.turns=3")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def api_key(name: str, endpoint: EndpointTable) -> str:
    """The key of an endpoint, from its environment variable. Raises ConfigError, by name, if that is not set."""
    variable = endpoint.api_key_env
    if variable is None:
        remote = [url for url in endpoint.urls if not is_loopback(url)]
        if remote:
            raise ConfigError(
                f"endpoint {name!r} is not on this machine, so it needs api_key_env, the name of the environment "
                'variable with its key (api_key_env = "" for a server that wants none)'
            )
        return ""
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key.strip():
        raise ConfigError(f"endpoint {name!r} takes its key from ${variable}, which is not set")
    if not key.isprintable():
        raise ConfigError(f"endpoint {name!r}: the key in ${variable} holds a line break or another control character")
    return key


def _scripted_roles(expansion: str, needed: Sequence[str]) -> dict[str, RoleTable]:
    names = [*NEEDED_ROLES, *(["judge"] if expansion == "beam" or "judge" in needed else []), *POOL_ROLES]
    return {name: RoleTable(endpoint=SCRIPTED) for name in names}


def _resolved(role: RoleTable, base: Path) -> RoleTable:
    return role if role.prompt is None else role.model_copy(update={"prompt": str((base / role.prompt).absolute())})


def _check(config: Config, where: str, needed: Sequence[str]) -> None:
    """What concerns more than one table."""
    _check_run(config.run, where)
    for name, endpoint in config.endpoints.items():
        _check_endpoint(name, endpoint, where)
    needs_judge = config.run.expansion == "beam" and "role_player" in needed
    for name in [*needed, *(["judge"] if needs_judge else [])]:
        if name not in config.roles:
            if config.run.cast is not None and name in config.run.cast:
                raise ConfigError(f"{where}: run.cast names the role {name!r}, but there is no [roles.{name}]")
            raise ConfigError(f"{where}: role {name!r} has no endpoint; add [roles.{name}] with endpoint = ...")
    for name, role in config.roles.items():
        _check_role(name, role, {*config.endpoints, *SCRIPTED_MODELS}, where)


def _check_run(run: RunTable, where: str) -> None:
    if run.expansion not in EXPANSIONS and ":" not in run.expansion:
        raise ConfigError(
            f"{where}: run.expansion: {run.expansion!r} is neither {' nor '.join(EXPANSIONS)} nor module:Class"
        )
    if not run.labels or len(set(run.labels)) < len(run.labels) or not all(run.labels):
        raise ConfigError(f"{where}: run.labels must be one or more different names, not {run.labels!r}")
    if bad := [label for label in run.labels if "/" in label or not label.isprintable()]:
        raise ConfigError(f"{where}: run.labels: {bad[0]!r} cannot be a label (no slash, only printable characters)")
    if run.cast is not None and (not run.cast or len(set(run.cast)) < len(run.cast)):
        raise ConfigError(f"{where}: run.cast must name one or more different roles, not {run.cast!r}")


def _check_endpoint(name: str, endpoint: EndpointTable, where: str) -> None:
    where = f"{where}: endpoint {name!r}"
    if name in SCRIPTED_MODELS:
        raise ConfigError(f"{where}: the name is taken by the built-in model")
    _check_sampling(endpoint.sampling, where)
    if endpoint.client not in CLIENTS:
        if ":" not in endpoint.client:
            raise ConfigError(
                f"{where}: client {endpoint.client!r} is neither {' nor '.join(CLIENTS)} nor module:Class"
            )
        return
    if endpoint.options:
        raise ConfigError(f'{where}: options go with client = "module:Class"')
    if not endpoint.urls or not all(endpoint.urls):
        raise ConfigError(f'{where} has no URL; add base_url = "http://HOST:PORT/v1"')
    for url in endpoint.urls:
        _check_url(url, where)
    if not endpoint.model:
        raise ConfigError(f"{where} has no model")
    if (endpoint.client == "azure") is not bool(endpoint.api_version):
        raise ConfigError(f'{where}: client = "azure" and api_version go together')
    if endpoint.api_key_env and not endpoint.api_key_env.isidentifier():
        raise ConfigError(f"{where}: api_key_env is the name of a variable, never the key itself")


def _check_url(url: str, where: str) -> None:
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ConfigError(f"{where}: a URL cannot hold a key; name its variable in api_key_env")
    if "?" in url or "#" in url:
        raise ConfigError(f"{where}: a URL ends with its path; what follows ? or # could be a key")
    if not _is_http(url):
        raise ConfigError(f"{where}: {url!r} is not an http(s) URL")


def _check_role(name: str, role: RoleTable, known: set[str], where: str) -> None:
    if role.class_ is None and name not in BUILT_IN_ROLES:
        raise ConfigError(f"{where}: no built-in role is called {name!r}{_nearest(name, BUILT_IN_ROLES)}; "
                          "your own role needs class = \"module:Class\"")  # fmt: skip
    if role.class_ is None and role.endpoint is None:
        raise ConfigError(f"{where}: role {name!r} has no endpoint")
    if role.endpoint is not None and role.endpoint not in known:
        raise ConfigError(
            f"{where}: role {name!r} uses the endpoint {role.endpoint!r}, which does not exist"
            f"{_nearest(role.endpoint, known)}"
        )
    _check_sampling(role.sampling, f"{where}: role {name!r}")


def _check_sampling(sampling: Mapping[str, object], where: str) -> None:
    if taken := [name for name in RESERVED if name in sampling]:
        raise ConfigError(f"{where}: sampling cannot hold {taken[0]!r}: the framework sets it itself")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not set(url) & set(" \t")
        )
    except ValueError:  # a port that is no number
        return False


def _explain(error: ValidationError) -> str:
    """The first problem, in one line."""
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        *parents, key = location
        return f"unknown key {'.'.join(location)!r}{_nearest(key, _keys(parents))}"
    wanted = "input should be a table" if problem["type"] in ("model_type", "dict_type") else problem["msg"].lower()
    if location[2:3] == ["base_url"]:  # of its two types pydantic speaks of one
        location, wanted = location[:3], "input should be a URL or a list of URLs"
    elif location[:2] == ["run", "personas"]:
        location, wanted = location[:2], "input should be a file's path or a list of personas"
    elif location[-2:-1] in (["live"], ["capacity"]):
        *location, kind = location
        if kind != "constrained-int" or type(problem["input"]) is not int:
            wanted = 'input should be a whole number or "auto"'
    return f"{'.'.join(location)}: {wanted}, not {one_line(repr(problem['input']), 60)}"


def _keys(parents: Sequence[str]) -> list[str]:
    tables: dict[str, type[_Table]] = {
        "run": RunTable,
        "pool": PoolTable,
        "endpoints": EndpointTable,
        "roles": RoleTable,
    }
    table: type[_Table] = tables.get(parents[0], Config) if parents else Config
    if parents[2:] == ["price"]:
        table = PriceTable
    return [field.alias or name for name, field in table.model_fields.items()]


def _nearest(name: str, known: Sequence[str] | set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f" (there are {', '.join(sorted(known))})"
