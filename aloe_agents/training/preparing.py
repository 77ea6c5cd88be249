"""Rows made ready for a trainer: read, other people's conversations mixed in, what is too long shortened or left out.

An answer is never cut: a row that does not fit loses its oldest turns, or is left out, and both are counted.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from aloe_agents.errors import ConfigError
from aloe_agents.files import read_json
from aloe_agents.runs.reading import TREES
from aloe_agents.text import one_line
from aloe_agents.training.rows import Filter, Form, Left, rows
from aloe_agents.tree import read_trees

TooLong = Literal["shorten", "drop", "refuse"]
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


def read_rows(data: Path, form: Form, min_margin: float | None, judge: str | None) -> tuple[list[dict[str, Any]], Left]:
    """The rows of a run's directory, or those that ``aloe export`` wrote, each with its conversation; and what was left out.

    Raises ConfigError where there is none.
    """
    left, path = Left(), _file_of(data)
    if path.name == TREES:
        found = [row for _, row in rows(read_trees(path), form, Filter(min_margin=min_margin), judge, left)]
    else:
        if judge or form == "sft-rejected":
            raise ConfigError(f"{path} holds rows, made of the answers and by the judge that aloe export was told: give a run's "
                              "directory, or no --judge and no --answers rejected")  # fmt: skip
        found = [*_exported(path, form, min_margin, left)]
    if not found:
        raise ConfigError(f"{data} has no row to train on: {told(left.out)}")
    for n, row in enumerate(found):  # of rows of other tools each is a conversation of its own
        row["conversation"] = str(row.get("conversation", f"row {n}"))
    return found, left


def rows_digest(data: Path) -> str:
    """A digest of what :func:`read_rows` reads. Raises ConfigError where it cannot be read."""
    return digest_of_files(_file_of(data))


def digest_of_files(path: Path) -> str:
    """A digest of a file, or of all in a folder. Raises ConfigError where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for one in sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]:
            with one.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def told(out: Counter[str]) -> str:
    """What was left out, in words."""
    return ", ".join(f"{count} {reason}" for reason, count in out.most_common() if count) or "it is empty"


def _file_of(data: Path) -> Path:
    if not data.is_dir():
        return data
    for name in (TREES, "train.jsonl", "train.parquet"):
        if (data / name).is_file():
            return data / name
    raise ConfigError(f"{data} holds neither {TREES} (a run) nor train.jsonl or train.parquet (rows of aloe export)")


def _exported(path: Path, form: Form, min_margin: float | None, left: Left) -> Iterator[dict[str, Any]]:
    wanted = ("prompt", "chosen", "rejected") if form == "dpo" else ("prompt", "completion")
    for where, row in read_json(path):
        if not isinstance(row, dict) or any(not isinstance(row.get(name), list) for name in wanted):
            raise ConfigError(f"{where} is no row with {', '.join(wanted)}")
        if "label" in row:
            raise ConfigError(f"{where} is a row for kto, which has rejected answers too: export with --to {form}")
        margin = row.get("margin") if isinstance(row.get("margin"), int | float) else None
        left.scored += margin is not None
        if min_margin is not None and margin is not None and margin < min_margin:
            left.out["margin too small"] += 1
        else:
            yield row
    left.check_scores(Filter(min_margin=min_margin), None)


def conversations(source: str | Path) -> Iterator[list[dict[str, str]]]:
    """The conversations of a JSON, JSONL or Parquet file, of a folder of them, or of a data set on the hub (OWNER/NAME, all of
    its splits), in the form of CodeActInstruct and its like: objects with ``conversations`` or ``messages``, lists of role
    (or from) and content (or value).

    Raises ConfigError, naming the item, for anything else.
    """
    path = Path(source)
    on_hub = (
        not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in (".json", ".jsonl")
    )
    for where, value in _loaded(str(source)) if on_hub or path.is_dir() else read_json(path):
        given = value.get("conversations", value.get("messages")) if isinstance(value, dict) else None
        if not isinstance(given, list) or not given:
            raise ConfigError(f"{where} has no conversations (a list of role and content)")
        messages = []
        for message in given:
            said = message if isinstance(message, dict) else {}
            role, content = said.get("role", said.get("from")), said.get("content", said.get("value"))
            if role not in _ROLES or not isinstance(content, str):
                raise ConfigError(f"{where} holds a message without a known role (user, assistant, system) and content")
            messages.append({"role": _ROLES[role], "content": content})
        yield messages


def _loaded(name: str) -> Iterator[tuple[str, Any]]:
    import httpx
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        splits = load_dataset(name)
    # the network's, the hub's, the files'
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError) as error:
        raise ConfigError(
            f"{name} is no file, and cannot be loaded as a data set: {one_line(str(error), 200)}"
        ) from None
    for split, items in splits.items():
        for n, item in enumerate(items, 1):
            yield f"{name}: item {n} of {split}", item


def as_rows(messages: Sequence[dict[str, str]], name: str) -> Iterator[dict[str, Any]]:
    """A row for each answer of a conversation."""
    for n, message in enumerate(messages):
        if message["role"] == "assistant" and any(before["role"] == "user" for before in messages[:n]):
            yield {"prompt": list(messages[:n]), "completion": [message], "conversation": name}


def mixed(rows: Sequence[dict[str, Any]], source: str | Path, share: float, seed: int) -> list[dict[str, Any]]:
    """``rows`` with conversations of ``source``, whole ones, until about ``share`` of all rows are theirs; shuffled.

    Raises ConfigError for a share outside of (0, 1], and where the file has too few.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"the share of a mixture is more than 0 and at most 1, not {share:g}")
    rng = random.Random(f"mix {seed}")
    others = [[*as_rows(messages, f"mixed {n}")] for n, messages in enumerate(conversations(source))]
    rng.shuffle(others)
    kept = [] if share == 1 else list(rows)
    wanted = sum(map(len, others)) if share == 1 else round(len(kept) * share / (1 - share))
    taken: list[dict[str, Any]] = []
    for conversation in others:
        if len(taken) >= wanted:
            break
        taken += conversation
    if len(taken) < wanted:
        raise ConfigError(f"{source} has {len(taken)} answers, and {wanted} are wanted for a share of {share:g}")
    together: dict[str, list[dict[str, Any]]] = {}
    for row in [*kept, *taken]:
        together.setdefault(row["conversation"], []).append(row)
    order = list(together)
    rng.shuffle(order)
    return [row for name in order for row in together[name]]


def fitted(
    rows: Iterable[dict[str, Any]], tokenizer: Any, max_length: int, too_long: TooLong = "shorten"
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """``rows`` of at most ``max_length`` tokens, and how many were shortened by their oldest turns or left out.

    Raises ConfigError where a row is too long and ``too_long`` is ``refuse``, and where the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("the tokenizer has no chat template; give one with --chat-template FILE (Jinja)")
    kept: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for row in rows:
        prompt = list(row["prompt"])
        answers = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
        while (length := max(_length(tokenizer, [*prompt, *answer], max_length) for answer in answers)) > max_length:
            if too_long == "refuse":
                raise ConfigError(
                    f"a row has {length} tokens, and {max_length} fit: raise --max-length, or choose --too-long"
                )
            start = 1 if prompt[0]["role"] == "system" else 0
            if too_long == "drop" or len(prompt) - start < 3:
                break
            del prompt[start : start + 2]
        else:
            counts["shortened"] += len(prompt) < len(row["prompt"])
            kept.append({**row, "prompt": prompt})
            continue
        counts["too long"] += 1
    return kept, counts


def _length(tokenizer: Any, messages: list[dict[str, str]], enough: int) -> int:
    """How many tokens ``messages`` are; where it is at most ``enough``, perhaps too many: no token is shorter than a byte,
    and bytes are counted in a tenth of the time.
    """
    most = len(tokenizer.apply_chat_template(messages, tokenize=False).encode("utf-8", "replace"))
    if most <= enough:
        return most
    return len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])
