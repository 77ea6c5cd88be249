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
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aloe_agents.errors import ConfigError
from aloe_agents.models.http import is_loopback
from aloe_agents.text import one_line

SCRIPTED = "scripted"
"""The endpoint that is always there: the built-in scripted model, in process."""
SCRIPTED_MODELS = (SCRIPTED, "scripted-generic", "scripted-adaptive")
"""Always there, too, as models to be evaluated: one answers everybody the same, one takes up what its user told."""
AUTO: Final = "auto"
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
    expansion: Literal["random-path", "full", "beam"] = "random-path"
    depth: Positive = 2
    """Of a full expansion: how many turns branch."""
    width: Positive = 2
    """Of a beam."""
    live: Positive | Literal["auto"] = AUTO
    """Conversations at once, counted by their open leaves; ``auto``: four times what the endpoints take."""


class PriceTable(_Table):
    """Money per million tokens."""

    input: Annotated[float, Field(ge=0)] = 0.0
    output: Annotated[float, Field(ge=0)] = 0.0


class EndpointTable(_Table):
    """``[endpoints.NAME]``"""

    base_url: str | list[str] = ""
    """One URL, or one for each replica."""
    model: str = ""
    client: Literal["http", "openai", "azure"] = "http"
    """How it is reached: directly, or through the openai SDK where its authentication is needed (base_url is then the
    resource's, without /v1, for Azure)."""
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
    sampling: dict[str, Any] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.base_url,) if isinstance(self.base_url, str) else tuple(self.base_url)


class RoleTable(_Table):
    """``[roles.NAME]``"""

    endpoint: str | None = None
    class_: str | None = Field(default=None, alias="class")
    """``module:Class``, to swap a built-in role or to add one."""
    prompt: str | None = None
    """A prompt file, relative to the configuration."""
    sampling: dict[str, Any] = {}
    """On top of the endpoint's."""
    options: dict[str, Any] = {}
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

    def to_toml(self) -> str:
        """The resolved configuration. It holds no secret, since none can be in it."""
        return tomli_w.dumps(self.model_dump(by_alias=True, exclude_none=True))


def load_config(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, needed: Sequence[str] = NEEDED_ROLES
) -> Config:
    """The configuration in ``path`` (none: all defaults), with dotted ``overrides`` (``{"run.turns": 3}``) on top.

    ``needed`` are the roles without which there is nothing to do; those that have no part in it are left out.

    Raises ConfigError for whatever cannot be used.
    """
    where = str(path) if path else "the configuration"
    table: dict[str, Any] = {}
    if path:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from None
    bare = not table.get("roles") and not table.get("endpoints")
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{dotted} cannot be set: {parent} is no table")
        inner[last] = value
    try:
        config = Config.model_validate(table)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None
    if bare and not config.endpoints:
        roles = _scripted_roles(config.run.expansion, needed)
        for name, role in config.roles.items():
            plain = role.endpoint is None and role.class_ is None
            roles[name] = role.model_copy(update={"endpoint": SCRIPTED}) if plain else role
        config = config.model_copy(update={"roles": roles})
    _check(config, where, needed)
    base, unused = path.parent if path else Path(), _UNUSED.get(tuple(needed), ())
    kept = [n for n in config.roles if (n in POOL_ROLES if tuple(needed) == POOL_ROLES else n not in unused)]
    roles = {name: _resolved(config.roles[name], base) for name in kept}
    return config.model_copy(update={"roles": roles})


def parse_override(text: str) -> tuple[str, Any]:
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
    known = {*config.endpoints, *SCRIPTED_MODELS}
    for name, endpoint in config.endpoints.items():
        if name in SCRIPTED_MODELS:
            raise ConfigError(f"{where}: the endpoint name {name!r} is taken by the built-in model")
        if not endpoint.urls or not all(endpoint.urls):
            raise ConfigError(f'{where}: endpoint {name!r} has no URL; add base_url = "http://HOST:PORT/v1"')
        for url in endpoint.urls:
            if "@" in url.partition("://")[2].partition("/")[0]:
                raise ConfigError(f"{where}: endpoint {name!r}: a URL holds no key; name its variable in api_key_env")
            if "?" in url or "#" in url:
                raise ConfigError(
                    f"{where}: endpoint {name!r}: a URL ends with its path, and what follows ? or # could be a key"
                )
            if not _is_http(url):
                raise ConfigError(f"{where}: endpoint {name!r}: {url!r} is no http or https URL")
        if not endpoint.model:
            raise ConfigError(f"{where}: endpoint {name!r} has no model")
        if (endpoint.client == "azure") is not bool(endpoint.api_version):
            raise ConfigError(f'{where}: endpoint {name!r}: api_version goes with client = "azure", and that needs it')
        if endpoint.api_key_env and not endpoint.api_key_env.isidentifier():
            raise ConfigError(
                f"{where}: endpoint {name!r}: api_key_env is the name of a variable, never the key itself"
            )
    for name in [*needed, *(["judge"] if config.run.expansion == "beam" and "role_player" in needed else [])]:
        if name not in config.roles:
            raise ConfigError(f"{where}: role {name!r} has no endpoint; add [roles.{name}] with endpoint = ...")
    for name, role in config.roles.items():
        if role.class_ is None and name not in BUILT_IN_ROLES:
            raise ConfigError(f"{where}: no built-in role is called {name!r}{_nearest(name, BUILT_IN_ROLES)}; "
                              "a role of one's own needs class = \"module:Class\"")  # fmt: skip
        if role.class_ is None and role.endpoint is None:
            raise ConfigError(f"{where}: role {name!r} has no endpoint")
        if role.endpoint is not None and role.endpoint not in known:
            raise ConfigError(
                f"{where}: role {name!r} uses the endpoint {role.endpoint!r}, which does not exist"
                f"{_nearest(role.endpoint, known)}"
            )


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
