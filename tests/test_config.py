"""The configuration: what is refused, in one line that names the key; and what is resolved, written and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_agents.config import NEEDED_ROLES, SCRIPTED, Config, api_key, load_config, parse_override
from aloe_agents.errors import ConfigError
from aloe_agents.model import RESERVED

ENDPOINT = '[endpoints.big]\nbase_url = "http://127.0.0.1:8000/v1"\nmodel = "some-model"\n'
ROLES = "".join(f'[roles.{name}]\nendpoint = "big"\n' for name in NEEDED_ROLES)
FULL = """
[run]
seed = 7
turns = 3
expansion = "beam"
depth = 4
width = 3
live = 9

[endpoints.big]
base_url = ["http://127.0.0.1:8000/v1", "https://[::1]:8001/v1"]
model = "some-model"
api_key_env = "BIG_KEY"
capacity = 8
requests_per_minute = 3000
tokens_per_minute = 1.5e6
timeout = 30
deadline = 90.5
attempts = 2
price = {input = 2.5, output = 10}
sampling = {temperature = 0.8, max_tokens = 300, stop = ["a", "b"]}

[roles.role_player]
endpoint = "big"
class = "my_package.roles:Skeptic"
prompt = "my_prompts/skeptic.md"
sampling = {temperature = 1.0}
options = {mood = "cross", level = 3, words = ["no"]}

[roles.induction]
endpoint = "scripted"
[roles.preferred]
endpoint = "big"
[roles.rejected]
endpoint = "big"
[roles.judge]
endpoint = "big"
[roles.critic]
class = "my_package.roles:Critic"
"""


def load(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None) -> Config:
    file = tmp_path / "aloe.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, overrides)


def refusal(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None) -> str:
    """Why ``text`` is refused, without the file's name in front."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text, overrides)
    said = str(refused.value)
    assert "\n" not in said and len(said) < 400 + len(str(tmp_path))
    assert said.startswith(str(tmp_path / "aloe.toml"))
    return said.removeprefix(str(tmp_path / "aloe.toml")).removeprefix(":").strip()


# --- defaults --------------------------------------------------------------------------------------------------------


def test_every_key_has_a_default() -> None:
    config = load_config()
    run = config.run
    assert (run.seed, run.turns, run.expansion, run.live) == (0, 10, "random-path", "auto")
    assert {name: role.endpoint for name, role in config.roles.items()} == dict.fromkeys(NEEDED_ROLES, SCRIPTED)
    assert config.endpoints == {}


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == load_config()
    assert load(tmp_path, "\ufeff# only a comment\r\n") == load_config()


def test_a_beam_needs_a_judge_and_has_one_by_default(tmp_path: Path) -> None:
    assert set(load_config(None, {"run.expansion": "beam"}).roles) == {*NEEDED_ROLES, "judge"}
    said = refusal(tmp_path, ENDPOINT + ROLES, {"run.expansion": "beam"})
    assert said == "role 'judge' has no endpoint; add [roles.judge] with endpoint = ..."


def test_everything_that_the_design_shows_can_be_said(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    big, player = config.endpoints["big"], config.roles["role_player"]
    assert (config.run.seed, config.run.turns, config.run.expansion, config.run.width) == (7, 3, "beam", 3)
    assert big.urls == ("http://127.0.0.1:8000/v1", "https://[::1]:8001/v1")
    assert (big.capacity, big.requests_per_minute, big.tokens_per_minute) == (8, 3000, 1.5e6)
    assert (big.timeout, big.deadline, big.attempts) == (30, 90.5, 2)
    assert (big.price.input, big.price.output) == (2.5, 10)
    assert big.sampling == {"temperature": 0.8, "max_tokens": 300, "stop": ["a", "b"]}
    assert player.class_ == "my_package.roles:Skeptic"
    assert player.options == {"mood": "cross", "level": 3, "words": ["no"]}
    assert config.roles["critic"].endpoint is None


def test_a_prompt_is_relative_to_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert load(tmp_path, FULL).roles["role_player"].prompt == str(tmp_path / "my_prompts/skeptic.md")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # an unknown key, with the nearest
        ("[run]\nturnz = 3", "unknown key 'run.turnz'; did you mean 'turns'?"),
        ("[run]\nsede = 3", "unknown key 'run.sede'; did you mean 'seed'?"),
        ("[rnu]\nturns = 3", "unknown key 'rnu'; did you mean 'run'?"),
        ("xyz = 3", "unknown key 'xyz' (there are endpoints, pool, roles, run)"),
        ("[endpoint.big]\nmodel = 'm'", "unknown key 'endpoint'; did you mean 'endpoints'?"),
        ("[endpoints.big]\nbase_ulr = 'x'", "unknown key 'endpoints.big.base_ulr'; did you mean 'base_url'?"),
        ("[endpoints.price]\nmodle = 'x'", "unknown key 'endpoints.price.modle'; did you mean 'model'?"),
        ("[endpoints.big]\nprice = {inptu = 1}", "unknown key 'endpoints.big.price.inptu'; did you mean 'input'?"),
        ("[roles.judge]\nendpont = 'x'", "unknown key 'roles.judge.endpont'; did you mean 'endpoint'?"),
        ("[roles.judge]\nclass_ = 'm:C'", "unknown key 'roles.judge.class_'; did you mean 'class'?"),
        ("[roles.judge]\nzzz = 1", "unknown key 'roles.judge.zzz' (there are class, endpoint, options, prompt, sampling)"),
        # a wrong type or range
        ("[run]\nturns = -1", "run.turns: input should be greater than or equal to 1, not -1"),
        ("[run]\nturns = 0", "run.turns: input should be greater than or equal to 1, not 0"),
        ("[run]\nturns = '3'", "run.turns: input should be a valid integer, not '3'"),
        ("[run]\nturns = 3.0", "run.turns: input should be a valid integer, not 3.0"),
        ("[run]\nturns = true", "run.turns: input should be a valid integer, not True"),
        ("[run]\nturns = 99999999999", "run.turns: input should be less than 2147483648, not 99999999999"),
        ("[run]\nlive = 0", "run.live: input should be greater than or equal to 1, not 0"),
        ("[run]\nseed = -1", "run.seed: input should be greater than or equal to 0, not -1"),
        ("[run]\nseed = 9223372036854775808", "run.seed: input should be less than 9223372036854775808, not 92233720"),
        ("[run]\nexpansion = 'bem'", "run.expansion: 'bem' is neither random-path nor full nor beam nor module:Class"),
        ("run = 3", "run: input should be a table, not 3"),
        ("[roles]\njudge = 'big'", "roles.judge: input should be a table, not 'big'"),
        ("[endpoints]\nbase_url = 'x'", "endpoints.base_url: input should be a table, not 'x'"),
        (ENDPOINT + "capacity = 0", "endpoints.big.capacity: input should be greater than or equal to 1, not 0"),
        (ENDPOINT + "capacity = 'ato'", "endpoints.big.capacity: input should be a whole number or \"auto\", not 'ato'"),
        ("[run]\nlive = 2.5", "run.live: input should be a whole number or \"auto\", not 2.5"),
        (ENDPOINT + "client = 'azure'", "endpoint 'big': client = \"azure\" and api_version go together"),
        (ENDPOINT + "client = 'sdk'", "endpoint 'big': client 'sdk' is neither http nor openai nor azure nor module:Class"),
        (ENDPOINT + "timeout = -1", "endpoints.big.timeout: input should be greater than 0, not -1"),
        (ENDPOINT + "timeout = inf", "endpoints.big.timeout: input should be a finite number, not inf"),
        (ENDPOINT + "requests_per_minute = 0", "endpoints.big.requests_per_minute: input should be greater than 0, not 0"),
        (ENDPOINT + "price = {input = -2}", "endpoints.big.price.input: input should be greater than or equal to 0, not"),
        (ENDPOINT + "sampling = 1", "endpoints.big.sampling: input should be a table, not 1"),
        ("[endpoints.big]\nbase_url = 5", "endpoints.big.base_url: input should be a URL or a list of URLs, not 5"),
        ("[endpoints.big]\nbase_url = ['x', 5]", "endpoints.big.base_url: input should be a URL or a list of URLs, not ["),
        (f"[run]\nturns = '{'x' * 5000}'", "run.turns: input should be a valid integer, not 'xxxxx"),
        # endpoints
        ("[endpoints.big]\nmodel = 'm'", "endpoint 'big' has no URL; add base_url = \"http://HOST:PORT/v1\""),
        ("[endpoints.big]\nmodel = 'm'\nbase_url = ''", "endpoint 'big' has no URL"),
        ("[endpoints.big]\nmodel = 'm'\nbase_url = []", "endpoint 'big' has no URL"),
        ("[endpoints.big]\nmodel = 'm'\nbase_url = ['http://a/v1', '']", "endpoint 'big' has no URL"),
        ("[endpoints.big]\nbase_url = 'http://a/v1'", "endpoint 'big' has no model"),
        *(
            (f"[endpoints.big]\nmodel = 'm'\nbase_url = '{url}'", f"endpoint 'big': '{url}' is not an http(s) URL")
            for url in ("localhost:8000/v1", "ftp://a/v1", "http://", "http:///v1", "http://a:port/v1", "http://[::1/v1")
        ),
        (
            "[endpoints.big]\nmodel = 'm'\nbase_url = 'https://user:s3cret@a/v1'",
            "endpoint 'big': a URL cannot hold a key; name its variable in api_key_env",
        ),
        ("[endpoints.big]\nmodel = 'm'\nbase_url = 'https://a/v1?key=s3cret'", "what follows ? or # could be a key"),
        (
            ENDPOINT + "api_key_env = 'sk-s3cret'",
            "endpoint 'big': api_key_env is the name of a variable, never the key itself",
        ),
        (ENDPOINT + "api_key = 's3cret'", "unknown key 'endpoints.big.api_key'; did you mean 'api_key_env'?"),
        ("[endpoints.scripted]\nmodel = 'm'\nbase_url = 'http://a'", "endpoint 'scripted': the name is taken by the built-in model"),
        # roles
        (ENDPOINT, "role 'role_player' has no endpoint; add [roles.role_player] with endpoint = ..."),
        (ENDPOINT + ROLES.replace("[roles.rejected]", "[roles.judge]"), "role 'rejected' has no endpoint; add [roles."),
        (ENDPOINT + ROLES + "[roles.judge]", "role 'judge' has no endpoint"),
        (ENDPOINT + ROLES.replace('"big"', '"bgi"', 1), "role 'role_player' uses the endpoint 'bgi', which does not exist"),
        (ENDPOINT + ROLES.replace('"big"', '"bgi"', 1), "exist; did you mean 'big'?"),
        (ROLES, "role 'role_player' uses the endpoint 'big', which does not exist (there are scripted, scripted-adaptive, scripted-generic)"),
        (
            ENDPOINT + ROLES + "[roles.jugde]\nendpoint = 'big'",
            "no built-in role is called 'jugde'; did you mean 'judge'?; your own role needs class = \"module:Class\"",
        ),
        # what is no TOML
        ("[run", "is not TOML: "),
        ("[run]\nturns = ", "is not TOML: "),
        ("[run]\nturns = 3\nturns = 4", "is not TOML: "),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    refused = refusal(tmp_path, text)
    assert said in refused
    assert "s3cret" not in refused, "a key that was written in the wrong place is not printed"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.toml: No such file"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.toml is not TOML"):
        load_config(tmp_path / "latin.toml")


def test_a_needed_role_of_ones_own_needs_no_endpoint(tmp_path: Path) -> None:
    text = ENDPOINT + ROLES.replace('endpoint = "big"', 'class = "mine:Script"', 1)
    assert load(tmp_path, text).roles["role_player"].endpoint is None


# --- overrides -------------------------------------------------------------------------------------------------------


def test_overrides_lie_on_top_of_the_file(tmp_path: Path) -> None:
    changed = load(
        tmp_path, FULL, {"run.turns": 5, "endpoints.big.sampling.temperature": 0.1, "roles.critic.options.level": 2}
    )
    assert (changed.run.turns, changed.run.seed) == (5, 7)
    assert changed.endpoints["big"].sampling == {"temperature": 0.1, "max_tokens": 300, "stop": ["a", "b"]}
    assert changed.roles["critic"].options == {"level": 2}
    assert changed.roles["critic"].class_ == "my_package.roles:Critic"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"run.turnz": 3}, "unknown key 'run.turnz'; did you mean 'turns'?"),
        ({"run.turns": -3}, "run.turns: input should be greater than or equal to 1, not -3"),
        ({"run.turns": "many"}, "run.turns: input should be a valid integer, not 'many'"),
        ({"run.turns.more": 3}, "cannot set run.turns.more: turns is not a table"),
        ({"run": 3}, "run: input should be a table, not 3"),
        ({"endpoints.small.capacity": 3}, "endpoint 'small' has no URL"),
        ({"roles.judge.endpoint": "bgi"}, "role 'judge' uses the endpoint 'bgi', which does not exist; did you mean 'big'?"),
    ],
)  # fmt: skip
def test_overrides_are_checked_like_the_file(tmp_path: Path, overrides: dict[str, Any], said: str) -> None:
    (tmp_path / "aloe.toml").write_text(FULL)
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path / "aloe.toml", overrides)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("run.turns=3", "run.turns", 3),
        ("run.turns = 3", "run.turns", 3),
        ("a=2.5", "a", 2.5),
        ("a=true", "a", True),
        ("a='x'", "a", "x"),
        ("a=random-path", "a", "random-path"),
        ("a=http://h/v1?x=y", "a", "http://h/v1?x=y"),
        ("a={x = 1, y = [2]}", "a", {"x": 1, "y": [2]}),
        ("a=007", "a", "007"),
        ("a=", "a", ""),
    ],
)
def test_an_override_is_a_key_and_a_toml_value_or_else_a_text(text: str, key: str, value: object) -> None:
    assert parse_override(text) == (key, value)


@pytest.mark.parametrize("text", ["run.turns", "", "=3", " =3"])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not KEY=VALUE, such as"):
        parse_override(text)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_comes_from_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = load(tmp_path, FULL).endpoints["big"]
    monkeypatch.setenv("BIG_KEY", "s3cret")
    assert api_key("big", big) == "s3cret"
    for value in ("", "  "):
        monkeypatch.setenv("BIG_KEY", value)
        with pytest.raises(ConfigError, match=r"endpoint 'big' takes its key from \$BIG_KEY, which is not set"):
            api_key("big", big)
    monkeypatch.delenv("BIG_KEY")
    with pytest.raises(ConfigError, match=r"endpoint 'big' takes its key from \$BIG_KEY, which is not set"):
        api_key("big", big)


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIG_KEY", "s3cret\n")
    with pytest.raises(ConfigError, match=r"\$BIG_KEY holds a line break") as refused:
        api_key("big", load(tmp_path, FULL).endpoints["big"])
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("urls", "needed"),
    [
        ('"http://127.0.0.1:1/v1"', False),
        ('"http://localhost:1/v1"', False),
        ('"http://[::1]:1/v1"', False),
        ('"http://127.8.8.8/v1"', False),
        ('"https://api.example.org/v1"', True),
        ('"http://10.0.0.7:8000/v1"', True),
        ('["http://127.0.0.1:1/v1", "http://10.0.0.7/v1"]', True),
        ('"http://localhost.example.org/v1"', True),
    ],
)
def test_a_server_elsewhere_needs_a_variable_or_the_word_that_it_wants_none(
    tmp_path: Path, urls: str, needed: bool
) -> None:
    text = f'[endpoints.big]\nmodel = "m"\nbase_url = {urls}\n'
    silent = load(tmp_path, text + ROLES).endpoints["big"]
    if needed:
        with pytest.raises(ConfigError, match="endpoint 'big' is not on this machine, so it needs api_key_env"):
            api_key("big", silent)
    else:
        assert api_key("big", silent) == ""
    assert api_key("big", load(tmp_path, f'{text}api_key_env = ""\n{ROLES}').endpoints["big"]) == ""


# --- written and read again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", ENDPOINT + ROLES, FULL], ids=["defaults", "small", "full"])
def test_the_resolved_configuration_loads_again_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("BIG_KEY", "s3cret")
    config = load(tmp_path, text)
    elsewhere = tmp_path / "runs" / "run.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(config.to_toml(), encoding="utf-8")
    assert load_config(elsewhere) == config
    assert "s3cret" not in config.to_toml()
    assert load_config(elsewhere).to_toml() == config.to_toml()


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(
    lambda name: name not in (SCRIPTED, *RESERVED)
)
values = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)


@given(
    turns=st.integers(1, 2**31 - 1),
    endpoint=names,
    url=st.sampled_from(["http://127.0.0.1:1/v1", ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]]),
    model=st.text(min_size=1, max_size=6),
    price=st.floats(0, 1e6),
    sampling=st.dictionaries(names, values, max_size=3),
)
@settings(max_examples=60)
def test_any_configuration_loads_again_to_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    turns: int,
    endpoint: str,
    url: str | list[str],
    model: str,
    price: float,
    sampling: dict[str, Any],
) -> None:
    roles = {name: {"endpoint": endpoint, "sampling": sampling, "options": sampling} for name in NEEDED_ROLES}
    table = {"base_url": url, "model": model, "price": {"input": price}, "sampling": sampling}
    config = Config.model_validate({"run": {"turns": turns}, "endpoints": {endpoint: table}, "roles": roles})
    file = tmp_path_factory.getbasetemp() / "run.toml"
    file.write_text(config.to_toml(), encoding="utf-8", newline="\n")
    assert load_config(file) == config
