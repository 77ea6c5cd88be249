"""What a chat-completions server's answer means: a completion, or what went wrong.

Every failure is told apart: Transient may pass, CallFailed will not, and Fatal (key, model, URL, quota) would meet every
other call too. A server's own words are kept, whatever shape they come in (:func:`told`). Bodies are read as bytes, so
this serves every client.
"""

from __future__ import annotations

import email.utils
import html
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

import orjson

from aloe_agents.errors import CallFailed, ConfigError, FailureReason, Fatal, Transient
from aloe_agents.model import Completion
from aloe_agents.text import one_line, storable

KEPT_IDLE = 4.0
"""Seconds for which an idle connection is kept: let go before the server does. uvicorn, and so vLLM, closes at 5."""

_OVERFLOW = re.compile(
    r"context.?length|context.?window|maximum.{0,20}tokens|max_model_len|too many tokens|prompt is too long"
    r"|max_tokens must be at least 1",
    re.IGNORECASE,
)
_ROUTES = ("/chat/completions", "/embeddings", "/models")
_VERSIONED = re.compile(r"/v\d\w*(?:/|$)|/openai(?:/|$)")
"""A base path with a version segment, or Azure's, which has none."""
_HIDDEN = re.compile(r"<(head|script|style)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TITLE = re.compile(r"<title>([^<]*)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>?")
_CERTIFICATE = re.compile(r"certificate", re.IGNORECASE)
_NOT_TLS = re.compile(r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST")
_TOLD = ("error", "message", "Message", "detail", "msg", "title", "error_description", "errors", "metadata", "raw")
"""Where servers put the words of an error, in the order in which they are read out."""
_DEPTH = 5
_READ = 8192
_EXCERPT = 120
_WORDS = 300
_TELLING = 8
"""Characters of a key's beginning or end that no message may show, where a server repeats only a part of it."""


@dataclass(frozen=True)
class Server:
    """Who is asked, for error messages; and the key, so that no message repeats it.

    Raises ConfigError for a key that no header can carry.
    """

    url: str
    """What is asked, the route included: ``http://127.0.0.1:8000/v1/chat/completions``."""
    model: str
    key: str = ""
    key_from: str = ""
    """The environment variable that the key came from."""

    def __post_init__(self) -> None:
        if not (self.key.isascii() and self.key.isprintable()):
            name = f"the key in ${self.key_from}" if self.key_from else f"the key for {self.place}"
            raise ConfigError(f"{name} holds a character that no key has (a typographic quote, perhaps); copy it again")

    @cached_property
    def place(self) -> str:
        """Host and port."""
        return place_of(self.url)

    @cached_property
    def path(self) -> str:
        """The full path that is asked."""
        return urlsplit(self.url).path

    @cached_property
    def way_out(self) -> str:
        """What to do about the base URL where its path cannot be right, to be added to a message; or nothing."""
        parts = urlsplit(self.url)
        route = next((route for route in _ROUTES if parts.path.endswith(route)), "")
        base = parts.path.removesuffix(route)
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        if too_long := next((other for other in _ROUTES if base.endswith(other)), ""):
            return f"; the base URL must end before {too_long}: {where}{base.removesuffix(too_long)}"
        if route and not _VERSIONED.search(base):
            return f"; the base URL has no /v1: try {where}{base}/v1"
        return ""


def place_of(url: str) -> str:
    """Host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def completion_of(raw: bytes, server: Server) -> Completion:
    """The completion in a body that came with status 200. Raises Transient or CallFailed where there is none."""
    try:
        answer = _loads(raw)
    except (ValueError, RecursionError):
        excerpt = one_line(_masked(raw[:_READ].decode(errors="replace"), server), 80)
        hint = server.way_out if excerpt.startswith("<") else ""
        raise _unusable(server, f"no JSON ({excerpt!r}){hint}") from None
    try:
        choice = answer["choices"][0]  # type: ignore[index]
        message = choice["message"]
        text, finish = message.get("content"), choice.get("finish_reason") or "stop"
    except (TypeError, KeyError, IndexError, AttributeError):
        words = one_line(_masked(told(answer), server), _WORDS)
        raise _unusable(server, f"the error {words!r} at status 200" if words else "no choice at status 200") from None
    usage = _field(answer, "usage")
    return Completion(
        text=_text(text, str(finish), message, server),
        finish_reason=storable(str(finish)),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        cached_tokens=_count(_field(usage, "prompt_tokens_details"), "cached_tokens"),
        raw=raw,
    )


def models_of(raw: bytes, server: Server) -> list[str]:
    """The names in a list of models. Raises Transient where the body is not one."""
    cards = _field(_parsed(raw), "data")
    if not isinstance(cards, list) or not all(isinstance(_field(card, "id"), str) for card in cards):
        raise _unusable(server, f"no list of models at {server.path}{server.way_out}")
    return [str(_field(card, "id")) for card in cards]


def failure_of(status: int, headers: Mapping[str, str], raw: bytes, server: Server) -> CallFailed | Fatal:
    """What an answer with another status than 200 is raised as."""
    error = _parsed(raw)
    words = one_line(_masked(told(error) or excerpt_of(raw), server), _WORDS)
    said = f"{server.place}: " + (f"{words} (status {status})" if words else f"status {status}")
    if status in (404, 405):
        return Fatal(_nothing_there(status, words, error, server))
    if final := _final(status, words, said, error, server):
        return final
    if status == 429:
        return Transient(FailureReason.RATE_LIMITED, said, retry_after=retry_after(headers))
    if status in (408, 409) or status >= 500:
        return Transient(FailureReason.SERVER_ERROR, said, retry_after=retry_after(headers), uncertain=status != 503)
    if status == 400 and _OVERFLOW.search(words):
        return CallFailed(FailureReason.CONTEXT_OVERFLOW, said)
    return CallFailed(FailureReason.REFUSED_REQUEST, _redirect(status, headers, server) or said)


def unreachable(cause: BaseException | str, server: Server, *, uncertain: bool = False) -> Transient | Fatal:
    """What a connection that failed for ``cause`` is raised as. A bad certificate is Fatal: trying again mends nothing."""
    words = one_line(_masked(str(cause) or type(cause).__name__, server))
    if _CERTIFICATE.search(words):
        advice = "if you trust the server, let SSL_CERT_FILE name a file with its certificate or its authority's"
        return Fatal(f"the certificate of {server.place} was not accepted: {words}; {advice}")
    if _NOT_TLS.search(words):
        return Fatal(f"{server.place} does not speak TLS: {words}; does its URL begin with http://?")
    return Transient(FailureReason.UNREACHABLE, f"{server.place} cannot be reached: {words}", uncertain=uncertain)


def told(body: object, depth: int = _DEPTH) -> str:
    """A server's own words in a JSON error body, whatever its shape; "" where it has none.

    OpenAI's ``{"error": {"message"}}``, ``{"error": text}``, Gemini's list of those, FastAPI's ``{"detail"}`` (a text,
    or problems with the place of each), ``{"message"}``, ``{"title", "detail"}`` and what nests or mixes them.
    """
    if isinstance(body, str):
        return body[:_READ].strip()
    if not depth or not isinstance(body, dict | list):
        return ""
    if isinstance(body, list):
        return "; ".join(dict.fromkeys(filter(None, (told(item, depth - 1) for item in body[:3]))))
    words = ": ".join(dict.fromkeys(filter(None, (told(body.get(name), depth - 1) for name in _TOLD))))
    place = body.get("loc")
    return f"{'.'.join(map(str, place))}: {words}" if words and isinstance(place, list) and place else words


def excerpt_of(raw: bytes) -> str:
    """The first words of a body in no known shape: plain text, or HTML without its tags."""
    text = raw[:_READ].decode(errors="replace").strip()
    if text.startswith("<"):
        title = _TITLE.search(text)
        shown = _TAG.sub(" ", _HIDDEN.sub(" ", text))
        text = html.unescape(shown if shown.strip() else title[1] if title else "")
    return one_line(text, _EXCERPT)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds to wait that a server asks for in its Retry-After headers; None where it says nothing sane."""
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


def _text(text: object, finish: str, message: object, server: Server) -> str:
    """The answer's text. Raises where it was withheld, or holds nothing."""
    if finish == "content_filter" or (not text and _field(message, "refusal")):
        raise CallFailed(FailureReason.FILTERED, f"{server.place} withheld the answer ({one_line(finish)})")
    if isinstance(text, str) and text.strip():
        return storable(text)
    reasoning = _field(message, "reasoning_content") or _field(message, "reasoning")
    why = "all its tokens went into reasoning: raise max_tokens" if reasoning else f"finish reason {one_line(finish)}"
    raise Transient(FailureReason.EMPTY, f"{server.place} answered without text ({why})", uncertain=True)


def _final(status: int, words: str, said: str, error: object, server: Server) -> Fatal | None:
    """What no other call would survive either: a key that is refused, a quota that is used up."""
    if status in (401, 403):
        key = "the key" if server.key else "a request without a key (set api_key_env)"
        key = f"the key in ${server.key_from}" if server.key_from else key
        return Fatal(f"{server.place} refused {key}: status {status}" + (f" ({words})" if words else ""))
    code = " ".join(_codes(error))
    if status == 402 or (status == 429 and ("quota" in code or "billing" in code)):
        return Fatal(f"{said}; the quota is used up, and all that was answered is kept")
    return None


def _redirect(status: int, headers: Mapping[str, str], server: Server) -> str:
    if not 300 <= status < 400:
        return ""
    target = one_line(_masked(headers.get("location", "").partition("?")[0], server))
    return f"{server.place} redirects to {target or 'nowhere'} (status {status}), which is not followed"


def _nothing_there(status: int, words: str, error: object, server: Server) -> str:
    """Of a 404: the model where the server speaks of it, or else the path and what it may lack."""
    named = re.search(rf"(?<!\w){re.escape(server.model)}(?!\w)|\bmodels?\b", words, re.IGNORECASE)
    if named or "model_not_found" in _codes(error):
        words = words or "no such model"
        return f"{server.place}: {words} (status {status}; asked for the model {server.model!r} at {server.path})"
    words = words.removeprefix(f"{status}").lstrip(": ")
    told_too = f": {words}" if words else ""
    return f"{server.place} has nothing at {server.path} (status {status}{told_too}){server.way_out}"


def _codes(error: object) -> Iterator[str]:
    """The codes and types in an error body."""
    for one in error if isinstance(error, list) else [error]:
        inner = _field(one, "error")
        for place in (inner, one):
            yield from (str(code) for name in ("code", "type") if (code := _field(place, name)))


def _parsed(raw: bytes) -> object:
    try:
        return _loads(raw)
    except (ValueError, RecursionError):
        return None


def _loads(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:  # strict about lone surrogates, which models do write
        return json.loads(raw)


def _unusable(server: Server, what: str) -> Transient:
    return Transient(FailureReason.BAD_RESPONSE, f"{server.place} answered {what}", uncertain=True)


def _masked(text: str, server: Server) -> str:
    """``text`` without the key, or a telling part of its beginning or end."""
    key = server.key
    if key:
        text = text.replace(key, "***")
    for length in range(len(key) - 1, _TELLING - 1, -1):
        text = text.replace(key[:length], "***").replace(key[-length:], "***")
    return text


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _count(usage: object, name: str) -> int:
    found = _field(usage, name)
    return found if isinstance(found, int) and 0 <= found < 2**63 else 0  # which SQLite can hold
