"""Rows on disk, as JSONL or Parquet, and the card that describes them.

A file is written row by row, and appears whole or not at all. The ending ``.parquet`` gives Parquet, any other JSONL. ``extra``, a persona's further fields, is an object in JSONL and JSON
text in Parquet, whose columns are the same for every row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing
from aloe_agents.training.rows import PAPER, Filter, Form, Labels, Left, Row

if TYPE_CHECKING:
    import pyarrow

AT_ONCE = 1000
"""Rows in a Parquet row group."""
Write = Callable[[Row], None]


@contextlib.contextmanager
def writer(path: Path) -> Iterator[Write]:
    """A function that writes rows to ``path``, which appears when the block ends without an exception.

    Raises ConfigError where it cannot be written.
    """
    if path.suffix != ".parquet":
        with replacing(path) as lines:
            yield lambda row: _write_line(lines, row)
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError(f"writing {path} needs pyarrow: pip install 'aloe-agents[parquet]'") from None
    with replacing(path) as file, contextlib.closing(_Parquet(file)) as table:
        yield table.write


def _write_line(lines: BinaryIO, row: Row) -> None:
    lines.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


class _Parquet:
    """A Parquet file that is being written; its columns are those of the first row."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting: list[dict[str, object]] = []
        self._writer: pyarrow.parquet.ParquetWriter | None = None

    def write(self, row: Row) -> None:
        """Take ``row``; a full row group goes to the file."""
        extra = row.get("extra")
        self._waiting.append({**row, "extra": orjson.dumps(extra).decode() if extra else None})
        if len(self._waiting) >= AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist(self._waiting, schema=_schema(self._waiting[0]))
        self._writer = self._writer or pyarrow.parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)
        self._waiting.clear()

    def close(self) -> None:
        """Write what waits, and the file's end."""
        if self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()


def _schema(row: Mapping[str, object]) -> pyarrow.Schema:
    import pyarrow

    message = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
    kinds = {"turn": pyarrow.int32(), "margin": pyarrow.float64(), "label": pyarrow.bool_()}
    return pyarrow.schema(
        [
            (name, message if isinstance(value, list) else kinds.get(name, pyarrow.string()))
            for name, value in row.items()
        ]
    )


def card(form: Form, files: Mapping[str, Path], left: Left, chosen: Filter, source: str, labels: Labels = PAPER) -> str:
    """A dataset card: what the rows are, where they come from and what was left out."""
    out = "\n".join(f"| {reason} | {count} |" for reason, count in left.out.most_common()) or "| nothing | 0 |"
    splits = "\n".join(f"  - split: {split}\n    path: {path.name}" for split, path in files.items())
    filters = [
        f"a margin of at least {chosen.min_margin:g} between the judge's scores"
        if chosen.min_margin is not None
        else "",
        f"at most {chosen.per_persona} turns per persona" if chosen.per_persona is not None else "",
        f"{chosen.validation:.0%} of the personas set aside (seed {chosen.seed})" if chosen.validation else "",
    ]
    return f"""---
configs:
- config_name: default
  data_files:
{splits}
---

# Rows for {form.upper()}

Simulated conversations by aloe-agents, from {source}. Each row is a turn. `prompt` holds what was said before it and the
user's message, in the conversational format of trl; {_meaning(form, labels)}. `conversation` is the tree that the row
comes from. `persona` is a digest of the simulated person, and `turn` counts from 1. `margin` is the judge's score of the
chosen answer minus that of the other answer, where both were scored. `extra` holds a persona's further fields, if any.

{left.rows} rows, {left.validation} of them for validation. Filters: {"; ".join(filter(None, filters)) or "none"}.

| turns left out | |
| --- | --- |
{out}

Language models wrote both the users and the answers. Licence and use are those of these models.
"""


def _meaning(form: Form, labels: Labels) -> str:
    """What the answers in a row of ``form`` are; p_i and r_i are the paper's names."""
    ours = " or ".join(f"`{label}`" for label in labels.chosen)
    if form == "sft":
        return f"`completion` is the answer labelled {ours} (p_i in equation 1)"
    if form == "dpo":
        rejected = f"`rejected` the one labelled `{labels.rejected}` (r_i)"
        return f"`chosen` is the answer labelled {ours} (p_i in equation 2), {rejected}"
    return f"`completion` is one answer, and `label` says whether it is labelled {ours}"
