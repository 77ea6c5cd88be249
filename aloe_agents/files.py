"""Files: written whole or not at all, and read with errors that name the line.

:func:`replacing` writes a new file beside the old one, flushes it to disk, then moves it into place.
:func:`read_values` reads JSON, JSON lines, CSV, TSV, Parquet and plain text, and says where each value stands.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson

from aloe_agents.errors import ConfigError


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` once the block ends without an exception. Missing folders are made.

    Raises ConfigError if the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with contextlib.suppress(OSError):  # opening the file gives the better error
            path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def read_text(path: Path | str) -> str:
    """The text of a UTF-8 file, without its byte order mark. Raises ConfigError if it cannot be read."""
    return "\n".join(line for _, line in text_lines(path, blank=True))


def text_lines(path: Path | str, blank: bool = False) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, numbered from 1, without their newlines. Blank lines are skipped unless ``blank``.

    Only a newline ends a line. Raises ConfigError if the file cannot be read.
    """
    at = 0
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                line = raw.removesuffix(b"\n").removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").decode()
                at += len(raw)
                if blank or line.strip():
                    yield number, line
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {at + error.start})") from None


def read_values(path: Path | str, remarks: list[str]) -> Iterator[tuple[str, object]]:
    """The values in a file, each with its place (``"a.jsonl, line 3"``). A broken line yields a ConfigError as its value.

    The suffix tells the format: ``.csv``, ``.tsv``, ``.parquet``, ``.json`` (a list). All other files are JSON lines, or
    plain text with one item per line. A line with several JSON values yields them all, and adds to ``remarks``.
    """
    path = Path(path)
    reader = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".json": _json}.get(path.suffix.lower(), _lines)
    yield from reader(path, remarks)


def read_json(path: Path | str) -> Iterator[tuple[str, object]]:
    """The values of a JSON list, of JSON lines or of a Parquet file's rows, each with its place.

    Raises ConfigError at the first broken value, or if the file cannot be read.
    """
    path = Path(path)
    for where, value in {".json": _json, ".parquet": _parquet}.get(path.suffix, _lines)(path, []):
        if isinstance(value, ConfigError):
            raise value
        yield where, value


def _lines(path: Path, remarks: list[str]) -> Iterator[tuple[str, object]]:
    is_json: bool | None = None  # the first line decides
    for number, line in text_lines(path):
        where = f"{path}, line {number}"
        if is_json is None:
            is_json = line.lstrip()[0] in '{"['
        if not is_json:
            yield where, line.strip()
            continue
        try:
            values = _values(line, where)
        except ConfigError as error:
            yield where, error
            continue
        if len(values) > 1:
            remarks.append(f"{where} holds {len(values)} items; all of them are used")
        for value in values:
            yield where, value


def _json(path: Path, remarks: list[str]) -> Iterator[tuple[str, object]]:
    try:
        values = orjson.loads(read_text(path))
    except orjson.JSONDecodeError:
        yield from _lines(path, remarks)  # JSONL under another name
        return
    for number, value in enumerate(values if isinstance(values, list) else [values], 1):
        yield f"{path}, item {number}", value


def _csv(path: Path, remarks: list[str]) -> Iterator[tuple[str, object]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        columns = next(filter(None, rows), [])
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if len(row) > len(columns):
                error = f"{where} has {len(row)} cells, but the header has {len(columns)}: put its texts in quotes"
                yield where, ConfigError(error)
            elif row:
                yield where, dict(zip(columns, row, strict=False))
    except csv.Error as error:
        raise ConfigError(f"{path}, line {rows.line_num} is not CSV: {error}") from None


def _parquet(path: Path, remarks: list[str]) -> Iterator[tuple[str, object]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"reading {path} needs pyarrow: pip install 'aloe-agents[parquet]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise ConfigError(f"{path} cannot be read as Parquet: {error}") from None


def _values(line: str, where: str) -> list[object]:
    """The JSON values of one line; usually there is one."""
    decoder = json.JSONDecoder()
    values: list[object] = []
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(line, at)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{where} is not JSON: {error}") from None
        values.append(value)
    return values
