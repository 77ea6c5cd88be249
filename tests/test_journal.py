"""The journal keeps what it was given, in order, whole; and says so when it cannot."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from aloe_agents.engine.expansion import RandomPath
from aloe_agents.engine.simulation import Simulation
from aloe_agents.errors import ConfigError, Fatal
from aloe_agents.model import Completion
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.personas import Persona
from aloe_agents.runs.journal import EndpointRecord, Journal, differences, open_readonly
from aloe_agents.runs.reading import Reading
from aloe_agents.runs.recorder import Recorder
from aloe_agents.runs.records import Usage
from tests.casts import Digest, paper_cast, people


async def run(folder: Path, model: Digest) -> tuple[list[bytes], Recorder]:
    with Journal(folder) as journal:
        recorder = Recorder(journal)
        simulation = Simulation(paper_cast(model), RandomPath(), turns=3, seed=2, recorder=recorder)
        await journal.claim(seed=2, turns=3, requested=5, settings={"turns": "3"}, endpoints={})
        return sorted([tree.to_json() async for tree in simulation.trees(people(5))]), recorder


class Counted(Digest):
    def __init__(self) -> None:
        self.asked = 0

    async def chat(self, call):  # type: ignore[no-untyped-def]
        self.asked += 1
        return await super().chat(call)


async def test_what_was_posted_before_is_on_disk_when_a_later_commit_returns(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for n in range(500):
            journal.post(("INSERT INTO attempts (key, n) VALUES (?, ?)", (b"k", n)))
        await journal.commit(("INSERT INTO attempts (key, n) VALUES (?, ?)", (b"k", 500)))
        reader = open_readonly(tmp_path)
        assert reader.execute("SELECT count(*) FROM attempts").fetchone() == (501,)
        reader.close()
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert not (tmp_path / "journal.sqlite-wal").exists()
    journal.close()


async def test_a_flipped_bit_in_an_answer_is_noticed_and_the_answer_asked_again(tmp_path: Path) -> None:
    first, _ = await run(tmp_path, Counted())
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("UPDATE calls SET text = CAST('fake' AS BLOB) WHERE rowid = 3")
        connection.execute(
            "UPDATE calls SET text = CAST(x'ef' || substr(text, 2) AS BLOB) WHERE rowid = 17"
        )  # no UTF-8
        connection.execute("UPDATE conversations SET status = 'running'")
    connection.close()
    model = Counted()
    again, recorder = await run(tmp_path, model)
    assert again == first and recorder.damaged == 2 and model.asked == 2


async def test_a_resumed_run_asks_nothing_that_the_journal_holds(tmp_path: Path) -> None:
    await run(tmp_path, Counted())
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("UPDATE conversations SET status = 'running' WHERE id < 'p00002'")
        connection.execute("DELETE FROM calls WHERE rowid = 5")
    connection.close()
    model = Counted()
    trees, _ = await run(tmp_path, model)
    assert len(trees) == 2 and model.asked <= 1


def test_differences_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    assert differences(tmp_path, {"turns": "4"}) == [] and not list(tmp_path.iterdir())
    asyncio.run(run(tmp_path, Digest()))
    assert differences(tmp_path, {"turns": "3"}) == []
    assert differences(tmp_path, {"turns": "4", "seed": "1"}) == [
        "seed is not set there and 1 here",
        "turns is 3 there and 4 here",
    ]


def test_a_newer_format_and_a_file_that_is_no_journal_are_refused(tmp_path: Path) -> None:
    asyncio.run(run(tmp_path / "new", Digest()))
    with sqlite3.connect(tmp_path / "new" / "journal.sqlite") as connection:
        connection.execute("UPDATE run SET format = 99")
    connection.close()
    for opened in (Journal, Reading):
        with pytest.raises(ConfigError, match="has format 99, and this version writes 3: use the version"):
            opened(tmp_path / "new")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "journal.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigError, match="cannot be used: file is not a database"):
        Journal(tmp_path / "junk")
    with pytest.raises(ConfigError, match="holds no run"):
        open_readonly(tmp_path)


async def test_a_value_that_cannot_be_stored_breaks_the_journal_with_a_word_and_no_hang(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        with pytest.raises(Fatal, match="cannot be written"):
            await asyncio.wait_for(journal.commit(("UPDATE run SET seed = ?", (2**70,))), 5)
        with pytest.raises(Fatal, match="cannot be written"):
            journal.post(("UPDATE run SET seed = 1", ()))


FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
import aloe_agents.runs.journal as journal
from aloe_agents.errors import Fatal

journal.PATIENCE = 0.5
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    with journal.Journal(Path(sys.argv[1])) as kept:
        done = 0
        try:
            while True:
                await kept.commit(("INSERT INTO attempts (key, n, reason) VALUES (?, ?, ?)", (b"k", done, "x" * 2000)))
                done += 1
        except Fatal as fatal:
            print(done)
            print(fatal)

asyncio.run(main())
"""


def test_a_full_disk_is_waited_for_then_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    count, text = done.stdout.splitlines()
    assert "cannot be written" in text and "run the same command again" in text
    assert "nothing is asked until it can" in done.stderr
    connection = sqlite3.connect(tmp_path / "run" / "journal.sqlite")
    assert connection.execute("SELECT count(*) FROM attempts").fetchone()[0] >= int(count) > 10
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_what_the_journal_cannot_hold_ends_the_run_and_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        simulation = Simulation(paper_cast(Digest()), RandomPath(), recorder=Recorder(journal))
        with pytest.raises(Fatal, match="the journal cannot hold ConversationStarted of 'odd'"):
            await simulation.run([Persona(id="odd", profile="\ud800", personality="x")])
    with pytest.raises(ConfigError, match="cannot be a run's directory"):
        Journal(tmp_path / "journal.sqlite" / "below")


async def test_tokens_are_counted_by_role_and_only_what_is_new_is_read_again(tmp_path: Path) -> None:
    class Cached(Digest):
        async def chat(self, call):  # type: ignore[no-untyped-def]
            return Completion(text=(await super().chat(call)).text, prompt_tokens=100, cached_tokens=75)

    described = {"e": EndpointRecord("digest", None, (0, 0))}
    with Journal(tmp_path) as journal:
        await journal.claim(seed=0, turns=3, requested=2, settings={}, endpoints=described)
        reading = Reading(tmp_path)
        assert reading.accounting().roles == {}
        for count in (1, 2):
            endpoint = Endpoint("e", [Cached()], Limits(capacity=4))
            simulation = Simulation(paper_cast(endpoint), RandomPath(), turns=3, recorder=Recorder(journal))
            await simulation.run([people(2)[count - 1]])
            await journal.commit()
            roles = reading.accounting().roles
            assert list(roles) == ["induction", "preferred", "rejected", "role_player"]
            used = Usage(calls=3 * count, prompt_tokens=300 * count, completion_tokens=0, cached_tokens=225 * count)
            assert roles["rejected"] == used
            assert reading.snapshot().endpoints[0].calls == 12 * count
            assert reading.accounting().uncertain == 0
        reading.close()
