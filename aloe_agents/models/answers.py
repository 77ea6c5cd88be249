"""What a chat-completions server's answer means: a completion, or what went wrong.

Everything that can go wrong is told apart: what may pass is Transient, what will not is CallFailed, what no other call
will survive either (key, model, quota) is Fatal. Bodies are read as bytes, so it serves every client.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from aloe_agents.errors import CallFailed, FailureReason, Fatal, Transient
from aloe_agents.model import Completion
from aloe_agents.text import one_line, storable

_OVERFLOW = re.compile(
    r"context.?length|context.?window|maximum.{0,20}tokens|max_model_len|too many tokens|prompt is too long"
    r"|max_tokens must be at least 1",
    re.IGNORECASE,
)


KEPT_IDLE = 4.0
"""Seconds for which a connection is kept idle: let go before the server does. uvicorn, and so vLLM, closes at 5."""


@dataclass(frozen=True)
class Server:
    """Who answered, for error messages; the key, so that no message repeats it."""

    place: str
    model: str
    key: str = ""
    key_from: str = ""
    """The environment variable that the key came from."""


def place_of(url: str) -> str:
    """Host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def completion_of(raw: bytes, server: Server) -> Completion:
    """The completion in a body that came with status 200. Raises Transient or CallFailed where there is none."""
    try:
        answer = _loads(raw)
    except (ValueError, RecursionError):
        raise _unusable(server, f"no JSON ({one_line(raw[:80].decode(errors='replace'))!r})") from None
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text, finish = message.get("content"), choice.get("finish_reason") or "stop"
    except (TypeError, KeyError, IndexError, AttributeError):
        error = answer.get("error") if isinstance(answer, dict) else None
        said = f"the error {one_line(_message(error))!r}" if error else "no choice"
        raise _unusable(server, f"{said} at status 200") from None
    if finish == "content_filter" or (not text and message.get("refusal")):
        raise CallFailed(FailureReason.FILTERED, f"{server.place} withheld the answer ({finish})")
    if not isinstance(text, str) or not text.strip():
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        why = "all its tokens went into reasoning: raise max_tokens" if reasoning else f"finish reason {finish}"
        raise Transient(FailureReason.EMPTY, f"{server.place} answered without text ({why})", uncertain=True)
    usage = answer.get("usage")
    return Completion(
        text=storable(text),
        finish_reason=storable(str(finish)),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        cached_tokens=_count(_field(usage, "prompt_tokens_details"), "cached_tokens"),
        raw=raw,
    )


def failure_of(status: int, headers: Mapping[str, str], raw: bytes, server: Server) -> CallFailed | Fatal:
    """What an answer with another status than 200 is to be raised as."""
    try:
        error = _loads(raw)
        error = error.get("error", error) if isinstance(error, dict) else None
    except (ValueError, RecursionError):
        error = None
    message = _masked(_message(error), server) or f"status {status}"
    said = f"{server.place}: {one_line(message)}"
    code = f"{_field(error, 'code')} {_field(error, 'type')}"
    if status in (401, 403):
        key = "the key" if server.key else "a request without a key (set api_key_env)"
        key = f"the key in ${server.key_from}" if server.key_from else key
        return Fatal(f"{server.place} refused {key}: status {status}")
    if status == 404:
        return Fatal(f"{said} (asked for the model {server.model!r})")
    if status == 402 or (status == 429 and ("quota" in code or "billing" in code)):
        return Fatal(f"{said} (the quota is used up; all that was answered is kept)")
    if status == 429:
        return Transient(FailureReason.RATE_LIMITED, said, retry_after=retry_after(headers))
    if status in (408, 409) or status >= 500:
        return Transient(FailureReason.SERVER_ERROR, said, retry_after=retry_after(headers), uncertain=status != 503)
    if status == 400 and _OVERFLOW.search(message):
        return CallFailed(FailureReason.CONTEXT_OVERFLOW, said)
    return CallFailed(FailureReason.REFUSED_REQUEST, f"{said} (status {status})")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds a server wishes to be left alone, from its Retry-After headers; None where it says nothing sane."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (value := headers.get(name)) is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            date = email.utils.parsedate_tz(value)
            seconds = email.utils.mktime_tz(date) - time.time() if date else -1.0
        if 0 <= seconds < 1e9:  # not in the past, not NaN
            return seconds
    return None


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:  # strict about lone surrogates, which models do write
        return json.loads(raw)


def _unusable(server: Server, what: str) -> Transient:
    return Transient(FailureReason.BAD_RESPONSE, f"{server.place} answered {_masked(what, server)}", uncertain=True)


def _masked(text: str, server: Server) -> str:
    return text.replace(server.key, "***") if server.key else text


def _message(error: object) -> str:
    found = error.get("message") if isinstance(error, dict) else error
    return found if isinstance(found, str) else ""


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _count(usage: object, name: str) -> int:
    found = _field(usage, name)
    return found if isinstance(found, int) and 0 <= found < 2**63 else 0  # which SQLite can hold
