"""Rows made ready for a trainer: read, mixed with other conversations, and fitted to the model's context.

An answer is never cut. A row that does not fit loses its oldest turns or is left out, and both are counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, cast

import orjson

from aloe_agents.errors import ConfigError
from aloe_agents.files import read_json
from aloe_agents.model import ChatMessage
from aloe_agents.runs.reading import TREES
from aloe_agents.text import one_line
from aloe_agents.training.rows import PAPER, ArgumentError, Filter, Form, Labels, Left, Row, rows
from aloe_agents.tree import read_trees

TooLong = Literal["shorten", "drop", "refuse"]
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer here."""

    chat_template: str | None

    def apply_chat_template(
        self, conversation: Sequence[ChatMessage], *, tokenize: bool, return_dict: bool = False
    ) -> str | Mapping[str, Sequence[int]]:
        """``conversation`` as text, or as ``input_ids`` where ``tokenize`` and ``return_dict`` are set."""
        ...


def read_rows(
    data: Path | str,
    form: Form,
    min_margin: float | None = None,
    judge: str | None = None,
    labels: Labels = PAPER,
) -> tuple[list[Row], Left]:
    """The rows of a run's directory, or of a file that ``aloe export`` wrote, and what was left out.

    Every row names its conversation. Raises ConfigError where there is no row.
    """
    left, path = Left(), _file_of(Path(data))
    if path.name == TREES:
        found = [row for _, row in rows(read_trees(path), form, Filter(min_margin=min_margin), judge, left, labels)]
    else:
        _check_exported(path, judge, labels)
        found = [*_exported(path, form, min_margin, left)]
    if not found:
        raise ConfigError(f"{data} has no row to train on: {left.reasons()}")
    for n, row in enumerate(found):  # a row from another tool is a conversation by itself
        row["conversation"] = str(row.get("conversation", f"row {n}"))
    return found, left


def rows_digest(data: Path | str) -> str:
    """A digest of what :func:`read_rows` reads. Raises ConfigError where it cannot be read."""
    return digest_of_files(_file_of(Path(data)))


def digest_of_files(path: Path) -> str:
    """A digest of a file, or of all files in a folder. Raises ConfigError where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for one in sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]:
            with one.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    return digest.hexdigest()


def _file_of(data: Path) -> Path:
    if not data.is_dir():
        return data
    for name in (TREES, "train.jsonl", "train.parquet"):
        if (data / name).is_file():
            return data / name
    raise ConfigError(f"{data} holds neither {TREES} (a run) nor train.jsonl or train.parquet (rows of aloe export)")


def _check_exported(path: Path, judge: str | None, labels: Labels) -> None:
    """Raise ArgumentError where something is asked for that was settled when the rows were exported."""
    settled = f"cannot be set for {path}: it was settled when these rows were exported; pass the run's directory"
    if judge is not None:
        raise ArgumentError("judge", settled)
    for name in ("chosen", "rejected"):
        if getattr(labels, name) != getattr(PAPER, name):
            raise ArgumentError(name, settled)


def _exported(path: Path, form: Form, min_margin: float | None, left: Left) -> Iterator[Row]:
    for where, value in read_json(path):
        row = _row_of(where, value, form)
        margin = row.get("margin")
        margin = margin if isinstance(margin, int | float) else None
        left.scored += margin is not None
        if min_margin is not None and margin is not None and margin < min_margin:
            left.out["margin too small"] += 1
        else:
            yield row
    left.check_scores(Filter(min_margin=min_margin), None)


def _row_of(where: str, value: object, form: Form) -> Row:
    """``value`` as a row of ``form``. Raises ConfigError for anything else."""
    wanted = ("prompt", "chosen", "rejected") if form == "dpo" else ("prompt", "completion")
    if not isinstance(value, dict) or not all(isinstance(value.get(name), list) for name in wanted):
        raise ConfigError(f"{where} is not a row with {', '.join(wanted)}")
    if "label" in value:
        raise ConfigError(f"{where} is a row for kto, which has rejected answers too: export rows for {form}")
    if isinstance(extra := value.get("extra"), str):  # as Parquet holds it
        with contextlib.suppress(ValueError):  # another tool's own column
            value["extra"] = orjson.loads(extra)
    elif extra is None:
        value.pop("extra", None)
    return cast(Row, value)


def conversations(source: str | Path) -> Iterator[list[ChatMessage]]:
    """The conversations in a JSON, JSONL or Parquet file, a folder of them, or all splits of a data set on the hub.

    They have the form of CodeActInstruct: objects with ``conversations`` or ``messages``, which are lists of ``role`` (or
    ``from``) and ``content`` (or ``value``). A data set's name is OWNER/NAME. Raises ConfigError, naming the item, for
    anything else.
    """
    path = Path(source)
    on_hub = (
        not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in (".json", ".jsonl")
    )
    for where, value in _loaded(str(source)) if on_hub or path.is_dir() else read_json(path):
        given = value.get("conversations", value.get("messages")) if isinstance(value, dict) else None
        if not isinstance(given, list) or not given:
            raise ConfigError(f"{where} has no conversations (a list of role and content)")
        yield [_message(where, message) for message in given]


def _message(where: str, given: object) -> ChatMessage:
    said = given if isinstance(given, dict) else {}
    role, content = said.get("role", said.get("from")), said.get("content", said.get("value"))
    if role not in _ROLES or not isinstance(content, str):
        raise ConfigError(f"{where} holds a message without content or a known role (user, assistant, system)")
    return {"role": _ROLES[role], "content": content}


def _loaded(name: str) -> Iterator[tuple[str, object]]:
    import httpx
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        splits = load_dataset(name)
    # errors of the network, of the hub and of the files
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError) as error:
        reason = one_line(str(error), 200)
        raise ConfigError(f"{name} is not a file, and cannot be loaded as a data set: {reason}") from None
    for split, items in splits.items():
        for n, item in enumerate(items, 1):
            yield f"{name}: item {n} of {split}", item


def as_rows(messages: Sequence[ChatMessage], name: str) -> Iterator[Row]:
    """A row for each answer in a conversation that is called ``name``."""
    for n, message in enumerate(messages):
        if message["role"] == "assistant" and any(before["role"] == "user" for before in messages[:n]):
            yield {"prompt": list(messages[:n]), "completion": [message], "conversation": name}


def mixed(rows: Sequence[Row], source: str | Path, share: float, seed: int) -> list[Row]:
    """``rows`` and whole conversations of ``source``, shuffled, so that about ``share`` of all rows are from ``source``.

    Raises ConfigError for a share outside (0, 1], and where the source has too few answers.
    """
    check_share(share)
    rng = random.Random(f"mix {seed}")
    others = [[*as_rows(messages, f"mixed {n}")] for n, messages in enumerate(conversations(source))]
    rng.shuffle(others)
    kept = [] if share == 1 else list(rows)
    wanted = sum(map(len, others)) if share == 1 else round(len(kept) * share / (1 - share))
    taken = _first(others, wanted)
    if len(taken) < wanted:
        raise ConfigError(f"{source} has {len(taken)} answers, but a share of {share:g} needs {wanted}")
    together: dict[str, list[Row]] = {}
    for row in [*kept, *taken]:
        together.setdefault(row["conversation"], []).append(row)
    order = list(together)
    rng.shuffle(order)
    return [row for name in order for row in together[name]]


def check_share(share: float) -> None:
    """Raise ArgumentError for a share of a mixture outside (0, 1]."""
    if not 0 < share <= 1:
        raise ArgumentError("mix", f"needs a share above 0 and at most 1, not {share:g}")


def _first(conversations: Iterable[list[Row]], wanted: int) -> list[Row]:
    """Rows of whole conversations, until there are ``wanted``."""
    taken: list[Row] = []
    for conversation in conversations:
        if len(taken) >= wanted:
            break
        taken += conversation
    return taken


def fitted(
    rows: Iterable[Row], tokenizer: Tokenizer, max_length: int, too_long: TooLong = "shorten"
) -> tuple[list[Row], Counter[str]]:
    """``rows`` of at most ``max_length`` tokens, and how many were ``shortened`` or left out as ``too long``.

    Raises ArgumentError where a row is too long and ``too_long`` is ``refuse``, and where the tokenizer has no chat
    template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ArgumentError("chat_template", "is needed (a Jinja file): this model's tokenizer has none")
    kept: list[Row] = []
    counts: Counter[str] = Counter()
    for row in rows:
        short = _shortened(row, tokenizer, max_length, too_long)
        if short is None:
            counts["too long"] += 1
            continue
        counts["shortened"] += len(short["prompt"]) < len(row["prompt"])
        kept.append(short)
    return kept, counts


def _shortened(row: Row, tokenizer: Tokenizer, max_length: int, too_long: TooLong) -> Row | None:
    """``row`` without as many of its oldest turns as it takes to fit; None where that does not help or is not wanted."""
    prompt = list(row["prompt"])
    start = 1 if prompt and prompt[0]["role"] == "system" else 0
    answers = [answer for answer in (row.get("completion"), row.get("chosen"), row.get("rejected")) if answer]
    while (length := max(_length(tokenizer, [*prompt, *answer], max_length) for answer in answers)) > max_length:
        if too_long == "refuse":
            raise ArgumentError("max_length", f"is {max_length}, but a row has {length} tokens")
        if too_long == "drop" or len(prompt) - start < 3:
            return None
        del prompt[start : start + 2]
    return {**row, "prompt": prompt}


def _length(tokenizer: Tokenizer, messages: Sequence[ChatMessage], enough: int) -> int:
    """The number of tokens in ``messages``; if at most ``enough``, perhaps an upper bound.

    No token is shorter than a byte, and counting bytes takes a tenth of the time.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    most = len(cast(str, text).encode("utf-8", "replace"))
    if most <= enough:
        return most
    encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    return len(cast(Mapping[str, Sequence[int]], encoded)["input_ids"])
