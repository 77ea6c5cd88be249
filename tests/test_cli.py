"""``aloe`` as users run it: exit codes, one line for what cannot be used, nothing written."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import aloe_agents
from aloe_agents.runners.cli import COMMANDS
from aloe_agents.training.authors import read_authors
from aloe_agents.tree import Tree, read_trees
from tests.commands import ALOE, ENVIRONMENT, ROOT, aloe, held, one_line

PERSONAS = "".join(
    json.dumps({"id": name, "profile": f"She is called {name}. She keeps bees.", "personality": "She is blunt."}) + "\n"
    for name in ("ann", "bea", "cleo")
)
NEEDED = ("role_player", "induction", "preferred", "rejected")


def trees(run: Path) -> list[Tree]:
    return list(read_trees(run / "trees.jsonl"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file of three personas."""
    (tmp_path / "personas.jsonl").write_text(PERSONAS)
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three conversations with two turns."""
    place = tmp_path_factory.mktemp("finished")
    (place / "personas.jsonl").write_text(PERSONAS)
    done = aloe("simulate --personas personas.jsonl --out run --turns 2 --seed 5", place)
    assert (done.returncode, done.stderr) == (0, "")
    return place / "run"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of ``aloe serve scripted``, which demands the key in $GOOD_KEY."""
    command = [*ALOE, "serve", "scripted", "--port", "0", "--api-key-env", "GOOD_KEY"]
    place = tmp_path_factory.mktemp("server")
    with subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+/v1", process.stdout.readline())
            assert url
            yield url[0]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


def configured(place: Path, url: str, *, model: str = "scripted", key: str | None = "GOOD_KEY", more: str = "") -> Path:
    """A configuration in which one endpoint plays all roles."""
    file = place / "aloe.toml"
    endpoint = f'[endpoints.big]\nbase_url = "{url}"\nmodel = "{model}"\n'
    variable = "" if key is None else f'api_key_env = "{key}"\n'
    file.write_text(endpoint + variable + more + "".join(f'[roles.{name}]\nendpoint = "big"\n' for name in NEEDED))
    return file


# --- the main job ----------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_configuration_its_journal_and_its_trees(run: Path) -> None:
    assert set(held(run)) == {"run.toml", "journal.sqlite", "run.lock", "trees.jsonl"}
    assert [(tree.id, tree.status, len(tree.turns)) for tree in trees(run)] == [
        (name, "completed", 2) for name in ("ann", "bea", "cleo")
    ]


def test_the_same_command_again_does_nothing_anew_and_another_run_gives_the_same_bytes(run: Path) -> None:
    before = (run / "trees.jsonl").read_bytes()
    for out in ("run", "other"):
        command = f"simulate --personas personas.jsonl --out {out} --turns 2 --seed 5"
        assert aloe(command, run.parent).returncode == 0
    assert (run / "trees.jsonl").read_bytes() == before == (run.parent / "other" / "trees.jsonl").read_bytes()


def test_pools_are_paired_and_a_mended_line_is_remarked_upon(place: Path) -> None:
    (place / "p.jsonl").write_text('"She sings."\n"He cooks.""She sails."\n')
    (place / "q.txt").write_text("She is shy.\nShe is loud.\n")
    done = aloe("simulate --profiles p.jsonl --personalities q.txt --count 6 --turns 1 --out run", place)
    assert (done.returncode, done.stderr) == (0, "aloe: p.jsonl, line 2 holds 2 items; all of them are used\n")
    assert len({(tree.persona.profile, tree.persona.personality) for tree in trees(place / "run")}) == 6


def test_a_reader_that_goes_away_early_is_no_error(place: Path) -> None:
    for reader, lines in (("head -1", 1), ("true", 0)):
        done = aloe(f"simulate --personas personas.jsonl --turns 1 --out run | {reader}", place)
        assert (done.stderr, done.stdout.count("\n")) == ("", lines)
        assert len(trees(place / "run")) == 3
    assert aloe("status run | true", place).stderr == ""


# --- the command line itself -----------------------------------------------------------------------------------------


def test_the_help_page_lists_the_commands_and_where_to_begin(tmp_path: Path) -> None:
    done = aloe("--help", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in COMMANDS if not re.search(rf"^  {name} +\w", done.stdout, re.MULTILINE)] == []
    assert "aloe demo" in done.stdout
    assert aloe("--version", tmp_path).stdout == f"aloe, version {aloe_agents.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_shows_an_example(tmp_path: Path, name: str) -> None:
    done = aloe(f"{name} --help", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: aloe {name} ")
    assert re.search(rf"^  aloe {name}( |$)", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("simulat", "no command 'simulat'; did you mean 'simulate'?"),
        ("statsu run", "no command 'statsu'; did you mean 'status'?"),
        (
            "zzz",
            "no command 'zzz' (there are demo, doctor, personas, simulate, watch, status, export, serve, train, evaluate, compare, judge, annotate)",
        ),
        ("--nonsense", "No such option '--nonsense'"),
        ("simulate --personas personas.jsonl", "Missing option '--out'. (aloe simulate --help says more)"),
        ("simulate --out run --turn 3 --personas personas.jsonl", "'--turns'"),
        ("simulate --out run --turns many --personas personas.jsonl", "'many' is not a valid integer"),
        (
            "simulate --out run --expansion tree --personas personas.jsonl",
            "run.expansion: 'tree' is neither random-path nor full",
        ),
        ("export run", "Missing option '--to'"),
        ("export run --to parquet --out x", "'parquet' is not one of"),
        ("status", "Missing argument 'DIRECTORY'"),
        ("status nowhere", "nowhere holds no run (there is no journal.sqlite in it)"),
        ("watch nowhere", "nowhere holds no run"),
        ("export nowhere --to aloe --out x", "nowhere holds no run"),
        ("doctor nowhere.toml", "cannot read nowhere.toml: No such file or directory"),
        ("serve scripted --port 99999", "99999 is not in the range"),
        ("serve scripted --port 0 --api-key-env NO_SUCH_VARIABLE", "$NO_SUCH_VARIABLE is not set"),
        ("serve llama", "'llama' is neither a directory nor scripted"),
    ],
)
def test_what_is_typed_wrong_is_said_in_one_line(place: Path, arguments: str, said: str) -> None:
    before = held(place)
    done = aloe(arguments, place)
    assert said in one_line(done)
    assert held(place) == before and set(place.iterdir()) == {place / "personas.jsonl"}


def test_debug_shows_where_an_error_comes_from(place: Path) -> None:
    done = aloe("--debug status nowhere", place)
    assert done.returncode != 0 and "Traceback" in done.stderr and "nowhere holds no run" in done.stderr


def test_a_file_name_reaches_the_terminal_only_as_inert_text(place: Path) -> None:
    name = shlex.quote("\x1b]0;x\x07\u202ename\nmore.jsonl")
    done = aloe(f"simulate --personas {name} --out run", place)
    assert one_line(done) == "]0;xname more.jsonl cannot be read: No such file or directory"


# --- bad input: one clear line, exit 2, nothing written ----------------------------------------------------------------

URL = "http://127.0.0.1:9/v1"
CONFIGURATIONS = {
    "unknown key": ("[run]\nturnz = 3\n", "unknown key 'run.turnz'; did you mean 'turns'?"),
    "role without endpoint": (
        f'[endpoints.big]\nbase_url = "{URL}"\nmodel = "m"\n[roles.role_player]\nendpoint = "big"\n',
        "role 'induction' has no endpoint; add [roles.induction]",
    ),
    "role with an endpoint that is not there": (
        "".join(f'[roles.{name}]\nendpoint = "bgi"\n' for name in NEEDED),
        "role 'role_player' uses the endpoint 'bgi', which does not exist",
    ),
    "endpoint without URL": ('[endpoints.big]\nmodel = "m"\n', "endpoint 'big' has no URL; add base_url"),
    "no TOML": ("[run\n", "is not TOML"),
    "a class that is not there": (
        "".join(f'[roles.{name}]\nendpoint = "scripted"\n' for name in NEEDED) + '[roles.critic]\nclass = "no.such:Thing"\n',
        "role 'critic': cannot load no.such:Thing",
    ),
    "a prompt that is not there": (
        "".join(f'[roles.{name}]\nendpoint = "scripted"\n' for name in NEEDED[1:])
        + '[roles.role_player]\nendpoint = "scripted"\nprompt = "none.md"\n',
        "none.md cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_configuration_that_cannot_be_used_is_refused(place: Path, case: str) -> None:
    text, said = CONFIGURATIONS[case]
    (place / "aloe.toml").write_text(text)
    before = held(place)
    done = aloe("simulate aloe.toml --personas personas.jsonl --out run", place)
    assert said in one_line(done)
    assert (held(place), done.stdout) == (before, "") and not (place / "run").exists()


@pytest.mark.parametrize(
    ("key", "url", "said"),
    [
        ("ABSENT_KEY", URL, "endpoint 'big' takes its key from $ABSENT_KEY, which is not set"),
        ("EMPTY_KEY", URL, "endpoint 'big' takes its key from $EMPTY_KEY, which is not set"),
        (None, "https://api.example.org/v1", "endpoint 'big' is not on this machine, so it needs api_key_env"),
        ("sk-b4d-s3cret", URL, "api_key_env is the name of a variable, never the key itself"),
    ],
)
def test_a_key_that_is_missing_is_named_by_its_variable(place: Path, key: str | None, url: str, said: str) -> None:
    configured(place, url, key=key)
    done = aloe("simulate aloe.toml --personas personas.jsonl --out run", place, {"EMPTY_KEY": ""})
    assert said in one_line(done)
    assert "s3cret" not in done.stderr and not (place / "run").exists()


@pytest.mark.parametrize(
    ("personas", "said"),
    [
        ("", "personas.jsonl holds no persona"),
        ('{"personality": "She is shy."}\n', "personas.jsonl, line 1: the persona's profile is missing or empty"),
        (PERSONAS + "{oops\n", "personas.jsonl, line 4 is not JSON"),
        (PERSONAS + PERSONAS, "personas.jsonl, line 4: the id 'ann' is taken by line 1"),
        (b"\xff\xfe", "personas.jsonl is not UTF-8 text"),
    ],
)
def test_personas_that_cannot_be_used_are_refused(place: Path, personas: str | bytes, said: str) -> None:
    (place / "personas.jsonl").write_bytes(personas if isinstance(personas, bytes) else personas.encode())
    done = aloe("simulate --personas personas.jsonl --out run", place)
    assert said in one_line(done)
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--personas personas.jsonl --turns -3", "run.turns: input should be greater than or equal to 1, not -3"),
        ("--personas personas.jsonl --live 0", "run.live: input should be greater than or equal to 1, not 0"),
        ("--personas personas.jsonl --set run.turnz=3", "unknown key 'run.turnz'; did you mean 'turns'?"),
        ("--personas personas.jsonl --set turns", "'turns' is not KEY=VALUE"),
        ("--personas personas.jsonl --seed 99999999999999999999", "run.seed: input should be less than"),
        ("--personas personas.jsonl --count 3", "--personas comes alone"),
        ("--profiles personas.jsonl", "give --personas FILE, or --profiles FILE --personalities FILE --count N"),
        (
            "--profiles p.txt --personalities p.txt --count 5",
            "5 personas asked for, but 2 profiles with 2 personalities",
        ),
        ("--profiles personas.jsonl --personalities p.txt --count 1", "line 1 holds profile and personality"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(place: Path, arguments: str, said: str) -> None:
    (place / "p.txt").write_text("one\ntwo\n")
    done = aloe(f"simulate {arguments} --out run", place)
    assert said in one_line(done)
    assert not (place / "run").exists()


def test_a_directory_that_is_a_file_is_refused(place: Path) -> None:
    done = aloe("simulate --personas personas.jsonl --out personas.jsonl", place)
    assert one_line(done) == "personas.jsonl is a file, not a directory"
    assert (place / "personas.jsonl").read_text() == PERSONAS


def test_another_run_in_the_directory_is_refused_and_told_apart(run: Path) -> None:
    before = held(run)
    said = one_line(aloe("simulate --personas personas.jsonl --out run --turns 3 --seed 6", run.parent))
    assert said.startswith("run holds another run: seed is 5 there and 6 here; turns is 2 there and 3 here. ")
    assert "--force" in said and "another --out" in said
    (run.parent / "fewer.jsonl").write_text(PERSONAS.partition("\n")[0])
    said = one_line(aloe("simulate --personas fewer.jsonl --out run --turns 2 --seed 5", run.parent))
    assert re.search(r"personas is 3 \(digest \w+\) there and 1 \(", said)
    assert held(run) == before


def test_force_goes_on_in_it_and_the_trees_are_those_of_the_new_settings(place: Path) -> None:
    for arguments in ("--turns 2 --out run", "--turns 3 --out run --force", "--turns 3 --out fresh"):
        done = aloe(f"simulate --personas personas.jsonl --seed 5 {arguments}", place)
        assert (done.returncode, done.stderr) == (0, "")
    assert [len(tree.turns) for tree in trees(place / "run")] == [3, 3, 3]
    assert (place / "run/trees.jsonl").read_bytes() == (place / "fresh/trees.jsonl").read_bytes()


# --- servers ---------------------------------------------------------------------------------------------------------


def test_a_run_over_http_gives_the_trees_of_the_model_behind_it(server: str, run: Path, place: Path) -> None:
    configured(place, server)
    done = aloe("simulate aloe.toml --personas personas.jsonl --out run --turns 2 --seed 5", place)
    assert (done.returncode, done.stderr) == (0, "")
    assert [tree.turns for tree in trees(place / "run")] == [tree.turns for tree in trees(run)]
    everything = b"".join(held(place / "run").values()) + done.stdout.encode()
    assert b"s3cret" not in everything and b"GOOD_KEY" in everything


@pytest.mark.parametrize(
    ("model", "key", "said"), [("scripted", "BAD_KEY", "the key in $BAD_KEY"), ("gpt", "GOOD_KEY", "model 'gpt'")]
)
def test_a_wrong_key_or_model_stops_the_run_in_one_line(
    server: str, place: Path, model: str, key: str, said: str
) -> None:
    configured(place, server, model=model, key=key)
    done = aloe("simulate aloe.toml --personas personas.jsonl --out run", place)
    assert said in one_line(done, code=1)
    assert "s3cret" not in done.stderr + done.stdout
    counted = json.loads(aloe("status run --json", place).stdout)
    assert (counted["requested"], counted["completed"], counted["failed"], counted["pending"]) == (3, 0, {}, 3)


def test_a_port_that_is_taken_is_named(server: str, tmp_path: Path) -> None:
    port = server.removesuffix("/v1").rpartition(":")[2]
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"")
    for model in ("scripted", "model"):  # else vLLM's /health might be answered by another server
        done = aloe(f"serve {model} --port {port}", tmp_path)
        assert one_line(done).startswith(f"cannot listen on 127.0.0.1:{port}")
    assert "--latency and --seed apply only to the scripted model" in one_line(
        aloe("serve model --latency 1", tmp_path)
    )


# --- status, export, doctor --------------------------------------------------------------------------------------------


def test_the_accounting_adds_up(run: Path) -> None:
    done = aloe("status run --json", run.parent)
    counted = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert counted["requested"] == counted["completed"] + sum(counted["failed"].values()) + counted["pending"] == 3
    made = trees(run)
    assert counted["calls"] == sum(tree.usage["calls"] for tree in made) == 3 * 2 * 4
    for name in ("prompt_tokens", "completion_tokens"):
        assert counted[name] == sum(tree.usage[name] for tree in made) > 0
    assert (counted["finished"], counted["uncertain"], counted["retries"]) == (True, 0, {})
    plain = aloe("status run", run.parent).stdout
    assert re.search(r"^completed +3$", plain, re.MULTILINE) and re.search(r"^failed +0$", plain, re.MULTILINE)


def test_a_run_with_a_failure_ends_with_one_and_counts_it_by_reason(place: Path) -> None:
    (place / "moody.py").write_text(
        "from aloe_agents.roles import RolePlayer\n"
        "class Moody(RolePlayer):\n"
        "    async def respond(self, heard, scene):\n"
        "        if scene.persona.id == 'bea' and heard.turn == 2:\n"
        "            raise ValueError('not today')\n"
        "        return await super().respond(heard, scene)\n"
    )
    roles = "".join(f'[roles.{name}]\nendpoint = "scripted"\n' for name in NEEDED[1:])
    (place / "aloe.toml").write_text(
        roles + '[roles.role_player]\nendpoint = "scripted"\nclass = "moody:Moody"\n[run]\nturns = 3\n'
    )
    done = aloe("simulate aloe.toml --personas personas.jsonl --out run", place)
    assert (done.returncode, done.stderr) == (1, "")
    counted = json.loads(aloe("status run --json", place).stdout)
    assert (counted["requested"], counted["completed"], counted["failed"]) == (3, 2, {"role-error": 1})
    assert counted["requested"] == counted["completed"] + sum(counted["failed"].values()) + counted["pending"]
    assert [(tree.status, len(tree.turns)) for tree in trees(place / "run")] == [
        ("completed", 3),
        ("failed", 1),
        ("completed", 3),
    ]


def test_an_export_is_read_back(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "conversations.jsonl"
    done = aloe(f"export {run} --to aloe --out {out}", tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"3 conversations in {out}\n")
    exported, made = list(read_authors(out)), trees(run)
    assert [tree.persona for tree in exported] == [tree.persona for tree in made]
    assert [[(t.path, t.user, t.chosen, t.revealed) for t in tree.turns] for tree in exported] == [
        [(t.path, t.user, t.chosen, t.revealed) for t in tree.turns] for tree in made
    ]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (".", "--out must be a file, but . is a directory"),
        ("personas.jsonl/x", "personas.jsonl/x cannot be written: Not a directory"),
    ],
)
def test_an_export_that_cannot_be_written_leaves_nothing(run: Path, place: Path, out: str, said: str) -> None:
    before = held(place)
    assert one_line(aloe(f"export {run} --to aloe --out {out}", place)) == said
    assert held(place) == before


def test_the_doctor_finds_nothing_wrong_with_the_defaults(tmp_path: Path) -> None:
    done = aloe("doctor", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"aloe-agents {aloe_agents.__version__}, Python ")
    assert "MISSING" not in done.stdout
    assert "  UserSaid -> induction -> PersonaRevealed\n" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_doctor_takes_a_file_for_evaluations_alone(server: str, place: Path) -> None:
    (place / "eval.toml").write_text(
        f'[endpoints.big]\nbase_url = "{server}"\nmodel = "scripted"\napi_key_env = "GOOD_KEY"\n'
        "[roles]\nrole_player.endpoint = 'big'\njudge.endpoint = 'big'\n"
    )
    done = aloe("doctor eval.toml", place)
    assert (done.returncode, done.stderr) == (0, "") and "answers and serves scripted" in done.stdout


def test_the_doctor_asks_an_endpoint(server: str, place: Path) -> None:
    configured(place, server)
    done = aloe("doctor aloe.toml", place)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"endpoint big: {server} answers and serves scripted" in done.stdout


@pytest.mark.parametrize(
    ("url", "model", "key", "said"),
    [
        (None, "gpt", "GOOD_KEY", "serves scripted, not 'gpt'"),
        (None, "scripted", "BAD_KEY", "refused the key in $BAD_KEY: status 401"),
        (None, "scripted", "ABSENT_KEY", "! endpoint 'big' takes its key from $ABSENT_KEY, which is not set"),
        (None, "scripted", "EMPTY_KEY", "! endpoint 'big' takes its key from $EMPTY_KEY, which is not set"),
        (URL, "scripted", "GOOD_KEY", "! endpoint 'big': 127.0.0.1:9 cannot be reached"),
        ("https://api.example.org/v1", "m", None, "! endpoint 'big' is not on this machine, so it needs api_key_env"),
    ],
)
def test_the_doctor_names_what_is_wrong_and_still_prints_the_flow(
    server: str, place: Path, url: str | None, model: str, key: str | None, said: str
) -> None:
    configured(place, url or server, model=model, key=key)
    done = aloe("doctor aloe.toml", place, {"EMPTY_KEY": ""})
    assert (done.returncode, done.stderr) == (1, "")
    assert said in done.stdout and "UserSaid -> induction -> PersonaRevealed" in done.stdout
    assert "s3cret" not in done.stdout


def test_an_interrupt_within_an_exec_ends_with_130_as_any_other(tmp_path: Path) -> None:
    patch = "import click\nclick.Group.invoke = lambda self, context: exec('raise KeyboardInterrupt')\n"
    (tmp_path / "sitecustomize.py").write_text(patch)
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    assert subprocess.run([*ALOE, "doctor"], check=False, env=environment).returncode == 130
