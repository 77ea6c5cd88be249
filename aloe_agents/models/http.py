"""A model behind an OpenAI-compatible server: chat completions straight over aiohttp and orjson.

One request, one answer; ``answers`` says what the answer means. Nothing is tried again here. Redirects are not
followed, since they would carry the key elsewhere. Proxies are not used for addresses of this machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
import orjson

from aloe_agents.errors import CallFailed, ConfigError, FailureReason, Transient
from aloe_agents.model import Call, Completion
from aloe_agents.models.answers import KEPT_IDLE, Server, completion_of, failure_of, models_of, unreachable
from aloe_agents.text import one_line

LARGEST_BODY = 16 * 2**20
"""Bytes of an answer; a longer one is not read to its end."""
_WAITING = re.compile(rb"^vllm:num_requests_waiting(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


class HttpModel:
    """``model`` at ``base_url``, which ends in ``/v1`` as a rule.

    ``key`` is sent as a bearer token; ``key_from`` is the variable that error messages name in its place. One
    connection is kept open for each call in flight: whoever calls limits those, and a second limit could only disagree.
    ``async with HttpModel(...) as model:`` closes them at the end. Raises ConfigError for a URL or key that cannot be
    used.
    """

    def __init__(self, base_url: str, model: str, *, key: str = "", key_from: str = "") -> None:
        self.base_url = checked_url(base_url).rstrip("/")
        self.name = model
        self._url = f"{self.base_url}/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._server = Server(self._url, model, key, key_from)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def chat(self, call: Call) -> Completion:
        """Send ``call`` once. Raises Transient, CallFailed or Fatal, with the server's own words."""
        headers = {"Content-Type": "application/json", **self._headers}
        if call.key:
            headers["Idempotency-Key"] = call.key
        # copied, because orjson leaves its buffers several times too long, and this one lives as long as the call
        body = bytes(memoryview(orjson.dumps({"model": self.name, "messages": call.messages, **call.sampling})))
        return completion_of(await self._asked("POST", self._server, headers, body), self._server)

    async def models(self) -> list[str]:
        """The models that the server lists (``GET /models``). Raises as :meth:`chat` does."""
        server = Server(f"{self.base_url}/models", self.name, self._server.key, self._server.key_from)
        return models_of(await self._asked("GET", server, self._headers), server)

    async def waiting(self) -> int | None:
        """How many requests wait in the engine, as vLLM's ``/metrics`` counts them; None where the server does not say.

        A server that wants a key is not asked: it is a hosted one, which has no such page.
        """
        if self._headers:
            return None
        url = self.base_url.removesuffix("/v1") + "/metrics"
        try:
            timeout = aiohttp.ClientTimeout(total=5)
            async with self._connected().get(url, allow_redirects=False, timeout=timeout) as response:
                counts = _WAITING.findall(await self._read(response)) if response.status == 200 else []
        except (aiohttp.ClientError, TimeoutError, CallFailed):
            return None
        return int(sum(map(float, counts))) if counts else None

    async def _asked(self, method: str, server: Server, headers: dict[str, str], body: bytes | None = None) -> bytes:
        """The body of one request's answer at status 200."""
        try:
            async with self._connected().request(
                method, server.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                raw = await self._read(response)
                if response.status == 200:
                    return raw
                raise failure_of(response.status, response.headers, raw, server)
        except aiohttp.ClientConnectorError as error:  # nothing was sent
            raise unreachable(error.os_error, server) from None
        except aiohttp.ClientPayloadError:
            text = f"{server.place} broke off in the middle of its answer"
            raise Transient(FailureReason.BAD_RESPONSE, text, uncertain=True) from None
        except aiohttp.ClientError as error:
            text = f"{server.place} dropped the connection: {one_line(str(error) or type(error).__name__)}"
            raise Transient(FailureReason.UNREACHABLE, text, uncertain=True) from None

    def _connected(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_IDLE, ttl_dns_cache=300),
                timeout=aiohttp.ClientTimeout(total=None),  # the attempt's deadline is the endpoint's
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
                raise CallFailed(
                    FailureReason.BAD_RESPONSE, f"{self._server.place} answered more than {LARGEST_BODY} bytes"
                )
        return bytes(pieces)


def checked_url(url: str) -> str:
    """``url``, if it is a base URL that can be asked. Raises ConfigError, naming what is missing or too much."""
    if not url:
        raise ConfigError("the base URL is empty; give one such as http://127.0.0.1:8000/v1")
    if "@" in url.partition("://")[2].partition("/")[0] or "?" in url or "#" in url:  # not repeated: it may hold a key
        raise ConfigError("a base URL holds no user, password or query; pass the key by itself")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # a port that is no number, brackets that do not close
        raise ConfigError(f"{url!r} is not an http(s) URL: {error}") from None
    wrong = {
        "it does not begin with http:// or https://": "://" not in url,
        f"its scheme is {parts.scheme!r}": parts.scheme not in ("http", "https"),
        "its host is missing": not host,
        "its port is 0": port == 0,
        "it holds a space or a control character": not url.isprintable() or " " in url,
    }
    if why := next((why for why, holds in wrong.items() if holds), ""):
        raise ConfigError(f"{url!r} is not an http(s) URL: {why}")
    return url


def is_loopback(url: str) -> bool:
    """Whether ``url`` names this machine: a loopback address, ``localhost``, or an unspecified address such as 0.0.0.0,
    under which servers print where they listen.
    """
    host = (urlsplit(url).hostname or "").removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that ``host`` spells, in any form that connects; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 0x7f000001, 0
        except (OSError, ValueError):
            return None
    return getattr(address, "ipv4_mapped", None) or address
