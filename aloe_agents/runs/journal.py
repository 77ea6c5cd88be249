"""The durable record of a run: one SQLite file, one connection, one thread that writes.

1. Whatever waits to be written goes into one transaction (group commit, no timer): under load a commit costs a
   fraction of a record. WAL with synchronous=FULL: what was committed survives a kill and a power cut.
2. Records are written in the order in which they were handed in. A call's answer is awaited until it is on disk
   before anybody sees it, so at any instant the file holds a causally closed past.
3. A disk that is full or ailing makes the writer wait and try again; as every sending of a call is recorded
   first, nothing is paid for meanwhile. After ``PATIENCE`` seconds the run ends with Fatal.
4. Every answer carries a digest, which is checked when the answer is used: SQLite does not notice a flipped bit.

Tables: ``run``, ``conversations``, ``messages``, ``calls``, ``attempts``; the schema below is stable for readers.
Rows are appended in the order of their arrival and found again by conversation: no tree of random keys, which would
cost a page of log for every row once it outgrows the cache. Readers open the file read-only, at any time, also while the run writes (:func:`open_readonly`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import itertools
import logging
import os
import queue
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import orjson

from aloe_agents.errors import ConfigError, Fatal

JOURNAL_FORMAT = 3
JOURNAL_FILE = "journal.sqlite"
PATIENCE = 60.0

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=67108864", "cache_size=-4096")
_SCHEMA = """
CREATE TABLE run (format INTEGER, seed INTEGER, turns INTEGER, requested INTEGER, configuration TEXT, settings BLOB,
                  origin REAL, began REAL, finished REAL);
CREATE TABLE conversations (id TEXT PRIMARY KEY, status TEXT, reason TEXT, turns INTEGER, calls INTEGER,
                            prompt_tokens INTEGER, completion_tokens INTEGER, started_at REAL, finished_at REAL,
                            persona BLOB);
CREATE INDEX conversations_by_status ON conversations (status, reason, turns, calls);
CREATE TABLE messages (sequence INTEGER PRIMARY KEY, conversation TEXT, path BLOB, kind TEXT, label TEXT, sender TEXT,
                       body BLOB);
CREATE INDEX messages_of ON messages (conversation);
CREATE INDEX failures_of ON messages (conversation) WHERE kind = 'Failed';
CREATE TABLE calls (number INTEGER PRIMARY KEY, conversation TEXT, key BLOB, path BLOB, agent TEXT, kind TEXT,
                    label TEXT, nth INTEGER, endpoint TEXT, model TEXT, finish_reason TEXT, prompt_tokens INTEGER,
                    completion_tokens INTEGER, cached_tokens INTEGER, started_at REAL, finished_at REAL, digest BLOB,
                    response BLOB, text BLOB);
CREATE INDEX calls_of ON calls (conversation);
CREATE TABLE attempts (id INTEGER PRIMARY KEY, key BLOB, n INTEGER, state TEXT, reason TEXT, endpoint TEXT,
                       queued_at REAL, started_at REAL, finished_at REAL);
"""

_CLAIM = """INSERT INTO run (format, seed, turns, requested, configuration, settings, origin, began)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunRow:
    """The one row of the table ``run``: what the run is."""

    format: int
    seed: int
    turns: int
    requested: int
    configuration: str
    """A digest of the settings."""
    settings: bytes
    """JSON: ``settings`` by name and ``endpoints`` (:class:`EndpointRecord`) by name."""
    origin: float
    """Wall clock at the run's beginning, from which all times count."""
    began: float
    finished: float | None


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """An endpoint as the journal describes it."""

    model: str
    capacity: int | None
    price: tuple[float, float]
    """Money per million prompt and completion tokens."""
    peak: int | None = None
    """The most calls that were in flight; known once the run is over."""


SQLValue = str | bytes | int | float | None
Row = tuple[Any, ...]
"""What SQLite returns: the columns that were selected."""
Statement = tuple[str, Sequence[SQLValue]]
"""SQL and its parameters; or the name of one of the tables below and a row of it."""

_ROWS = {
    "messages": "(conversation, path, kind, label, sender, body)",
    "calls": "(conversation, key, path, agent, kind, label, nth, endpoint, model, finish_reason, prompt_tokens, "
    "completion_tokens, cached_tokens, started_at, finished_at, digest, response, text)",
    "attempts": "(id, key, n, state, reason, endpoint, queued_at, started_at, finished_at)",
}
_AGAIN = {
    "attempts": " ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason, "
    "started_at = excluded.started_at, finished_at = excluded.finished_at"
}
_AT_ONCE = 32
"""Rows an INSERT: every step of a statement hands the interpreter's lock over and back, so few steps are cheap."""


@functools.cache
def _insert(table: str, rows: int) -> str:
    columns = _ROWS[table]
    row = "(" + ", ".join("?" * (columns.count(",") + 1)) + ")"
    return f"INSERT INTO {table} {columns} VALUES {', '.join([row] * rows)}{_AGAIN.get(table, '')}"


class _Job(NamedTuple):
    statements: Sequence[Statement]
    read: Callable[[sqlite3.Connection], list[Row]] | None = None
    future: asyncio.Future[list[Row]] | None = None


class Journal:
    """The one writer of a run directory. Use it in a ``with``, or ``close`` it."""

    def __init__(self, directory: Path) -> None:
        """Create or reopen the journal in ``directory``.

        Raises ConfigError if another process writes there, or if the file has another format.
        """
        self.directory = directory
        self.path = directory / JOURNAL_FILE
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(directory)
        except OSError as error:
            raise ConfigError(f"{directory} cannot be a run's directory: {error.strerror or error}") from None
        self.fresh = not self.path.exists()
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._lock)
            try:
                if self.fresh:
                    self.path.touch(mode=0o600)
                self._connection = sqlite3.connect(
                    self.path, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=64
                )
                undo.callback(self._connection.close)
                for pragma in _PRAGMAS:
                    self._connection.execute(f"PRAGMA {pragma}").fetchall()
                tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if not tables:  # new, or killed before the schema was committed
                    self.fresh = True
                    self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
                self.run = run_row(self._connection)
                attempts: int = self._connection.execute("SELECT coalesce(max(id), 0) FROM attempts").fetchone()[0]
                self._numbers = itertools.count(attempts + 1)
            except (OSError, sqlite3.Error) as error:
                raise ConfigError(f"the journal {self.path} cannot be used: {error}") from None
            if self.run:
                check_format(self.path, self.run.format)
            undo.pop_all()
        self.origin: float = self.run.origin if self.run else time.time()
        self.over = bool(self.run and self.run.finished is not None)
        """Whether the run had come to its end when the journal was opened."""
        self._settings: dict[str, str] = {}
        self._endpoints: dict[str, EndpointRecord] = {}
        self._closed = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._broken: Fatal | None = None
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def claim(
        self,
        *,
        seed: int,
        turns: int,
        requested: int,
        settings: Mapping[str, str],
        endpoints: Mapping[str, EndpointRecord],
    ) -> None:
        """Say what this run is. A journal that held a run of other settings keeps its answers, but every
        conversation of it is held again. :func:`differences` tells beforehand whether that would happen.
        """
        digest = hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hexdigest()
        self._settings, self._endpoints = dict(settings), dict(endpoints)
        row = (JOURNAL_FORMAT, seed, turns, requested, digest, self._described(), self.origin, self.now())
        changed = self.run is not None and self.run.configuration != digest
        statements: list[Statement] = [("DELETE FROM run", ()), (_CLAIM, row)]
        if changed:
            statements.append(("UPDATE conversations SET status = 'pending', reason = NULL", ()))
        await self.commit(*statements)

    async def finish(self, peaks: Mapping[str, int] = {}) -> None:
        """Say that the run came to its end, whatever became of its conversations. ``peaks``: the most calls that were
        in flight, by endpoint.
        """
        for name, peak in peaks.items():
            self._endpoints[name] = replace(self._endpoints[name], peak=peak)
        await self.commit(("UPDATE run SET finished = ?, settings = ?", (self.now(), self._described())))

    def _described(self) -> bytes:
        endpoints = {name: asdict(endpoint) for name, endpoint in self._endpoints.items()}
        return orjson.dumps({"settings": self._settings, "endpoints": endpoints})

    def number(self) -> int:
        """The number of the next attempt: one more than any that this journal holds."""
        return next(self._numbers)

    def now(self) -> float:
        """Seconds since the run's origin."""
        return time.time() - self.origin

    async def commit(self, *statements: Statement) -> None:
        """Write ``statements`` in one transaction, after all that was posted before; returns when that is on disk."""
        await self._wait(statements, None)

    def post(self, *statements: Statement) -> None:
        """Write ``statements`` in order, without waiting. Raises Fatal once the journal is closed or cannot write."""
        self._check()
        self._jobs.put(_Job(statements))

    async def query(self, sql: str, parameters: Sequence[SQLValue] = ()) -> list[Row]:
        """The rows that ``sql`` selects, after all that was posted before."""
        return await self._wait((), lambda connection: connection.execute(sql, parameters).fetchall())

    async def _wait(
        self, statements: Sequence[Statement], read: Callable[[sqlite3.Connection], list[Row]] | None
    ) -> list[Row]:
        self._check()
        future: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(statements, read, future))
        return await future

    def _check(self) -> None:
        if self._broken:
            raise self._broken
        if self._closed:
            raise Fatal(f"the journal {self.path} is closed: the run that it belongs to is over")

    def close(self) -> None:
        """Write what waits, fold the log into the file, let go of the lock. Safe to call twice.

        Whoever uses the journal afterwards gets a Fatal: no call waits for an answer that cannot come.
        """
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._thread.join()
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.close()
        os.close(self._lock)
        self._lock = -1

    def _write(self) -> None:
        ended = False
        while not ended:
            group = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while len(group) < 10_000:
                    group.append(self._jobs.get_nowait())
            ended = None in group
            jobs = [job for job in group if job is not None]
            if not jobs:
                continue
            if not self._broken:
                self._commit(jobs)
            results: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[list[Row]], list[Row] | Fatal]]] = {}
            for _, read, future in jobs:
                if future is not None:
                    results.setdefault(future.get_loop(), []).append((future, self._broken or self._read(read)))
            for loop, resolved in results.items():
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    loop.call_soon_threadsafe(_resolve, resolved)

    def _read(self, read: Callable[[sqlite3.Connection], list[Row]] | None) -> list[Row] | Fatal:
        try:
            return read(self._connection) if read else []
        except sqlite3.Error as error:
            return Fatal(f"the journal {self.path} cannot be read: {error}")

    def _commit(self, jobs: Sequence[_Job]) -> None:
        patience = time.monotonic() + PATIENCE
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._execute([statement for job in jobs for statement in job.statements])
                self._connection.execute("COMMIT")
                return
            except Exception as error:  # noqa: BLE001 this thread must not die: others wait for its word
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                lasting = not isinstance(error, sqlite3.OperationalError)
                if lasting or time.monotonic() > patience:
                    self._broken = Fatal(
                        f"the journal {self.path} cannot be written ({error}); all that it holds is kept: "
                        "make room or mend the disk, then run the same command again"
                    )
                    return
                log.warning("the journal cannot be written (%s); nothing is asked until it can", error)
                time.sleep(1.0)  # its own thread; whoever needs the commit awaits it

    def _execute(self, statements: Sequence[Statement]) -> None:
        """Other statements in their order, then rows, table by table: they concern what was there before."""
        rows: dict[str, list[Sequence[SQLValue]]] = {table: [] for table in _ROWS}
        for sql, parameters in statements:
            if (waiting := rows.get(sql)) is not None:
                waiting.append(parameters)
            else:
                self._connection.execute(sql, parameters)
        for table, waiting in rows.items():
            start, size = 0, _AT_ONCE
            while left := len(waiting) - start:
                while size > left:  # few different sizes, so that their statements stay prepared
                    size //= 2
                values = [value for row in waiting[start : start + size] for value in row]
                self._connection.execute(_insert(table, size), values)
                start += size


def _resolve(results: Sequence[tuple[asyncio.Future[list[Row]], list[Row] | Fatal]]) -> None:
    for future, result in results:
        if not future.done():
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)


def _lock(directory: Path) -> int:
    lock = os.open(directory / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 200).decode(errors="replace").strip()
        os.close(lock)
        raise ConfigError(f"{directory} is in use by another run ({holder or 'of an unknown process'})") from None
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return lock


def open_readonly(directory: Path) -> sqlite3.Connection:
    """A reader of the journal in ``directory``, which may be written meanwhile. Raises ConfigError if there is none."""
    path = (directory / JOURNAL_FILE).absolute()
    if not path.exists():
        raise ConfigError(f"{directory} holds no run (there is no {JOURNAL_FILE} in it)")
    for options in ("mode=ro", "mode=ro&immutable=1"):  # the latter: a finished run in a folder that is not ours
        with contextlib.ExitStack() as undo:
            try:
                connection = sqlite3.connect(f"{path.as_uri()}?{options}", uri=True, timeout=10)
                undo.callback(connection.close)
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                undo.pop_all()
                return connection
            except sqlite3.Error as error:
                failure = error
    raise ConfigError(f"{path} cannot be read: {failure}")


def check_format(path: Path, found: int) -> None:
    """Refuse a journal that another version wrote. Raises ConfigError."""
    if found != JOURNAL_FORMAT:
        raise ConfigError(
            f"{path} has format {found}, and this version writes {JOURNAL_FORMAT}: use the version that wrote it, or another directory"
        )


def run_row(connection: sqlite3.Connection) -> RunRow | None:
    """What the run is; None before it began. Of another format only that is read."""
    cursor = connection.execute("SELECT * FROM run")
    if (row := cursor.fetchone()) is None:
        return None
    if row[0] != JOURNAL_FORMAT:
        return RunRow(row[0], 0, 0, 0, "", b"", 0.0, 0.0, None)
    return RunRow(*row)


def differences(directory: Path, settings: Mapping[str, str]) -> list[str]:
    """In what the run in ``directory`` differs from ``settings``, one line each; nothing where there is no run yet."""
    if not (directory / JOURNAL_FILE).exists():
        return []
    with contextlib.closing(open_readonly(directory)) as connection:
        try:
            row = connection.execute("SELECT settings FROM run").fetchone()
        except sqlite3.Error:  # killed before the schema was committed
            row = None
    there = orjson.loads(row[0])["settings"] if row else settings
    return [
        f"{name} is {there.get(name, 'not set')} there and {settings.get(name, 'not set')} here"
        for name in sorted({*there, *settings})
        if there.get(name) != settings.get(name)
    ]


def answer_digest(raw: bytes, text: bytes) -> bytes:
    """The first half of the sha-256 of an answer as it is kept: as it came, a zero byte, its text."""
    return hashlib.sha256(raw + b"\0" + text).digest()[:16]
