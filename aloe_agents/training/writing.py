"""Rows on disk: JSONL or Parquet, row by row, whole or not there; and the card that says what they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import replacing
from aloe_agents.training.rows import Filter, Form, Left

AT_ONCE = 1000
"""Rows of a Parquet row group."""
Write = Callable[[Mapping[str, Any]], None]

_MEANING = {
    "sft": "`completion` is the preferred answer p_i (equation 1)",
    "sft-rejected": "`completion` is the rejected answer r_i, for the ablation",
    "dpo": "`chosen` is the preferred answer p_i, `rejected` the rejected one r_i (equation 2)",
    "kto": "`completion` is one answer, `label` whether it is the preferred one",
}


@contextlib.contextmanager
def writer(path: Path) -> Iterator[Write]:
    """What writes rows to ``path``, ``.parquet`` or else JSONL. Raises ConfigError where that cannot be."""
    if path.suffix != ".parquet":
        with replacing(path) as lines:

            def write_line(row: Mapping[str, Any]) -> None:
                lines.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

            yield write_line
        return
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"writing {path} needs pyarrow; install it with: pip install pyarrow") from None
    with replacing(path) as file:
        waiting: list[Mapping[str, Any]] = []
        parquet: Any = None

        def flush() -> None:
            nonlocal parquet
            table = pyarrow.Table.from_pylist(waiting, schema=_schema(pyarrow, waiting[0]))
            parquet = parquet or pyarrow.parquet.ParquetWriter(file, table.schema)
            parquet.write_table(table)
            waiting.clear()

        def write(row: Mapping[str, Any]) -> None:
            waiting.append(row)
            if len(waiting) >= AT_ONCE:
                flush()

        yield write
        if waiting:
            flush()
        if parquet is not None:
            parquet.close()


def _schema(pyarrow: Any, row: Mapping[str, Any]) -> Any:
    message = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
    kinds = {"turn": pyarrow.int32(), "margin": pyarrow.float64(), "label": pyarrow.bool_()}
    return pyarrow.schema(
        [
            (name, message if isinstance(value, list) else kinds.get(name, pyarrow.string()))
            for name, value in row.items()
        ]
    )


def card(form: Form, files: Mapping[str, Path], left: Left, chosen: Filter, source: str) -> str:
    """A dataset card: what the rows are, where they come from, what was left out."""
    out = "\n".join(f"| {reason} | {count} |" for reason, count in left.out.most_common()) or "| nothing | 0 |"
    splits = "\n".join(f"  - split: {split}\n    path: {path.name}" for split, path in files.items())
    filters = [
        f"at least {chosen.min_margin:g} between the judge's scores" if chosen.min_margin is not None else "",
        f"at most {chosen.per_persona} turns of a persona" if chosen.per_persona is not None else "",
        f"{chosen.validation:.0%} of the personas set aside (seed {chosen.seed})" if chosen.validation else "",
    ]
    return f"""---
configs:
- config_name: default
  data_files:
{splits}
---

# Rows for {form.upper()}

Simulated conversations by aloe-agents, from {source}. A row is a turn: `prompt` is what was said before it and the user's
message, in the conversational format of trl; {_MEANING[form]}. `conversation` is the tree that it is from, `persona` a
digest of the simulated person, `turn` counts from 1, `margin` is the judge's score of the preferred answer minus that of
the rejected one, where both were scored.

{left.rows} rows, {left.validation} of them for validation. Filters: {"; ".join(filter(None, filters)) or "none"}.

| turns left out | |
| --- | --- |
{out}

Users and answers were written by language models. Licence and use are those of the models that wrote them.
"""
