"""A model behind an OpenAI-compatible server: chat completions straight over aiohttp and orjson.

One request, one answer, and every way in which that can go wrong told apart: what may pass is Transient, what will
not is CallFailed, what no call will survive (key, model, quota) is Fatal. Nothing is tried again here.
Redirects are not followed, since they would carry the key elsewhere; proxies are not used for loopback addresses.
"""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import re
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from aloe_agents.errors import CallFailed, FailureReason, Fatal, Transient
from aloe_agents.model import Call, Completion
from aloe_agents.text import one_line, storable

LARGEST_BODY = 16 * 2**20
_OVERFLOW = re.compile(
    r"context.?length|context.?window|maximum.{0,20}tokens|max_model_len|too many tokens|prompt is too long"
    r"|max_tokens must be at least 1",
    re.IGNORECASE,
)


class HttpModel:
    """``model`` at ``base_url`` (which ends in ``/v1`` as a rule).

    ``key`` is sent as a bearer token; ``key_from`` says in error messages where it came from. ``connections`` are
    kept open, as many as may be in flight.
    """

    def __init__(self, base_url: str, model: str, *, key: str = "", key_from: str = "", connections: int = 64) -> None:
        self.base_url = base_url.rstrip("/")
        self.name = model
        self._url = f"{self.base_url}/chat/completions"
        self._key = key
        self._key_from = key_from
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def chat(self, call: Call) -> Completion:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if call.key:
            headers["Idempotency-Key"] = call.key
        body = orjson.dumps({"model": self.name, "messages": call.messages, **call.sampling})
        try:
            async with self._connected().post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                raw = await self._read(response)
                if response.status == 200:
                    return self._completion(raw)
                raise self._error(response, raw)
        except aiohttp.ClientConnectorError as error:  # nothing was sent
            text = f"{self._where} cannot be reached: {one_line(str(error.os_error))}"
            raise Transient(FailureReason.UNREACHABLE, text) from None
        except aiohttp.ClientPayloadError:
            text = f"{self._where} broke off in the middle of its answer"
            raise Transient(FailureReason.BAD_RESPONSE, text, uncertain=True) from None
        except aiohttp.ClientError as error:
            text = f"{self._where} dropped the connection: {one_line(str(error) or type(error).__name__)}"
            raise Transient(FailureReason.UNREACHABLE, text, uncertain=True) from None

    @property
    def _where(self) -> str:
        parts = urlsplit(self.base_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def _connected(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=30, ttl_dns_cache=300),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),  # the attempt's deadline is the endpoint's
                trust_env=not is_loopback(self.base_url),
                auto_decompress=True,
            )
        return self._session

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        pieces = bytearray()
        async for piece in response.content.iter_any():
            pieces += piece
            if len(pieces) > LARGEST_BODY:
                response.close()
                raise CallFailed(FailureReason.BAD_RESPONSE, f"{self._where} answered more than {LARGEST_BODY} bytes")
        return bytes(pieces)

    def _completion(self, raw: bytes) -> Completion:
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise self._unusable(f"no JSON ({one_line(raw[:80].decode(errors='replace'))!r})") from None
        try:
            choice = answer["choices"][0]
            message = choice["message"]
            text, finish = message.get("content"), choice.get("finish_reason") or "stop"
        except (TypeError, KeyError, IndexError, AttributeError):
            error = answer.get("error") if isinstance(answer, dict) else None
            said = f"the error {one_line(_message(error))!r}" if error else "no choice"
            raise self._unusable(f"{said} at status 200") from None
        if finish == "content_filter" or (not text and message.get("refusal")):
            raise CallFailed(FailureReason.FILTERED, f"{self._where} withheld the answer ({finish})")
        if not isinstance(text, str) or not text.strip():
            reasoning = message.get("reasoning_content") or message.get("reasoning")
            why = "all its tokens went into reasoning: raise max_tokens" if reasoning else f"finish reason {finish}"
            text = f"{self._where} answered without text ({why})"
            raise Transient(FailureReason.EMPTY, text, uncertain=True)
        usage = answer.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        return Completion(
            text=storable(text),
            finish_reason=str(finish),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            cached_tokens=int(details.get("cached_tokens") or 0),
            raw=raw,
        )

    def _unusable(self, what: str) -> Transient:
        return Transient(FailureReason.BAD_RESPONSE, f"{self._where} answered {what}", uncertain=True)

    def _error(self, response: aiohttp.ClientResponse, raw: bytes) -> CallFailed | Fatal:
        status = response.status
        try:
            error = orjson.loads(raw)
            error = error.get("error", error) if isinstance(error, dict) else None
        except orjson.JSONDecodeError:
            error = None
        message = _message(error) or f"status {status}"
        if self._key:
            message = message.replace(self._key, "***")
        said = f"{self._where}: {one_line(message)}"
        code = f"{error.get('code')} {error.get('type')}" if isinstance(error, dict) else ""
        if status in (401, 403):
            key = f"the key in ${self._key_from}" if self._key_from else "a request without a key (set api_key_env)"
            return Fatal(f"{self._where} refused {key}: status {status}")
        if status == 404:
            return Fatal(f"{said} (model {self.name!r}, {self._url})")
        if status in (402, 429) and ("quota" in code or "billing" in code or status == 402):
            return Fatal(f"{said} (the quota is used up; all that was answered is kept)")
        if status == 429:
            return Transient(FailureReason.RATE_LIMITED, said, retry_after=retry_after(response.headers))
        if status in (408, 409) or status >= 500:
            wait = retry_after(response.headers)
            return Transient(FailureReason.SERVER_ERROR, said, retry_after=wait, uncertain=status != 503)
        if status == 400 and _OVERFLOW.search(message):
            return CallFailed(FailureReason.CONTEXT_OVERFLOW, said)
        return CallFailed(FailureReason.REFUSED_REQUEST, f"{said} (status {status})")


def retry_after(headers: Any) -> float | None:
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


def is_loopback(url: str) -> bool:
    """Whether ``url`` names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _message(error: object) -> str:
    found = error.get("message") if isinstance(error, dict) else error
    return found if isinstance(found, str) else ""
