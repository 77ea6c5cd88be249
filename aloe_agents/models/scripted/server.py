"""The scripted model behind HTTP, in the dialect of OpenAI-compatible servers.

1. ``POST /v1/chat/completions`` (whole or streamed), ``GET /v1/models``, ``GET /health``.
2. An answer is that of :func:`~aloe_agents.models.scripted.model.complete`, the same text as in process. Of the sampling, ``seed``,
   ``stop``, ``max_tokens`` and ``max_completion_tokens`` count; the rest is ignored, and so are tools.
3. What a real server refuses is refused, with its status and an ``error`` of its shape. Faults are not played.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import cast

import orjson
from aiohttp import web

from aloe_agents.errors import ConfigError
from aloe_agents.model import ChatMessage, Completion
from aloe_agents.models.scripted.model import complete, tokens

LARGEST_BODY = 64 * 2**20
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_WORD = re.compile(r"\S+\s*|\s+")

OnRequest = Callable[[str | None, dict[str, object]], None]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What one server serves, and how."""

    model: str
    seed: int
    latency: float
    api_key: str | None
    max_model_len: int | None
    on_request: OnRequest | None


SERVED = web.AppKey("served", Served)


class Refused(Exception):
    """A request that gets an error in place of an answer: its status, and the fields of the error."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "NotFoundError" if status == 404 else "invalid_request_error"
        self.error = {"message": message, "type": kind, "param": param, "code": code}


def make_app(
    *,
    latency: float = 0.0,
    api_key: str | None = None,
    max_model_len: int | None = None,
    model: str = "scripted",
    seed: int = 0,
    on_request: OnRequest | None = None,
) -> web.Application:
    """The server as an aiohttp application.

    ``latency`` is seconds an answer; ``api_key``, where given, is demanded of every request but ``/health``;
    ``max_model_len`` bounds the estimated tokens of a prompt with its answer. ``on_request`` is called with the
    Idempotency-Key and the body of each chat request that is accepted, before its latency.
    """
    app = web.Application(middlewares=[_in_shape], client_max_size=LARGEST_BODY)
    app[SERVED] = Served(
        model=model, seed=seed, latency=latency, api_key=api_key, max_model_len=max_model_len, on_request=on_request
    )
    app.router.add_get("/health", _health)
    app.router.add_get("/v1/models", _models)
    app.router.add_post("/v1/chat/completions", _chat)
    return app


@asynccontextmanager
async def serve(app: web.Application, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve ``app`` while the context lasts; yields its base URL, which ends in ``/v1``. Port 0 takes a free one.

    On leaving, requests in flight have ten seconds to finish. Raises ConfigError where it cannot listen there.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=10.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _chat(request: web.Request) -> web.StreamResponse:
    served = request.app[SERVED]
    _check_key(request, served)
    body = _object(await request.read())
    if (model := body.get("model")) != served.model:
        missing = f"The model `{model}` does not exist. This server has `{served.model}`."
        raise Refused(404, missing, "model", "model_not_found")
    messages, sampling = _messages(body), _sampling(body)
    _check_length(messages, sampling, served)
    if served.on_request is not None:
        served.on_request(request.headers.get("Idempotency-Key"), body)
    if served.latency > 0:
        await asyncio.sleep(served.latency)
    completion = complete(messages, sampling, served.seed)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": served.model}
    if body.get("stream"):
        options = body.get("stream_options")
        counted = isinstance(options, dict) and options.get("include_usage")
        return await _streamed(request, completion, {**head, "usage": None} if counted else head)
    message = {"role": "assistant", "content": completion.text, "refusal": None}
    likely = _logprobs(completion.text) if body.get("logprobs") else None
    choice = {"index": 0, "message": message, "logprobs": likely, "finish_reason": completion.finish_reason}
    return _json({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(completion)})


def _logprobs(text: str) -> dict[str, object]:
    """The whole answer as one token; a score's neighbours are a tenth as likely as it."""
    digit = int(text) if text.isdigit() and len(text) == 1 else None
    others = [] if digit is None else [str(near) for near in (digit - 1, digit + 1) if 0 < near < 6]
    top = [{"token": text, "logprob": math.log(1 - len(others) / 10), "bytes": None}]
    top += [{"token": other, "logprob": math.log(0.1), "bytes": None} for other in others]
    return {"content": [{**top[0], "top_logprobs": top}], "refusal": None}


async def _streamed(request: web.Request, completion: Completion, head: dict[str, object]) -> web.StreamResponse:
    """The answer as server-sent events, word by word; with its usage at the end where ``head`` has a place for it."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})

    def event(finish: str | None = None, **delta: str) -> dict[str, object]:
        return {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    words = (event(content=word) for word in _WORD.findall(completion.text))
    events = [event(role="assistant", content=""), *words, event(completion.finish_reason)]
    if "usage" in head:
        events.append({"choices": [], "usage": _usage(completion)})
    with suppress(ConnectionResetError):  # whoever asked has left, and nobody else is to be told
        await response.prepare(request)
        for fields in events:
            chunk = {**head, "object": "chat.completion.chunk", **fields}
            await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
    return response


async def _models(request: web.Request) -> web.Response:
    served = request.app[SERVED]
    _check_key(request, served)
    card = {"id": served.model, "object": "model", "owned_by": "aloe-agents", "max_model_len": served.max_model_len}
    return _json({"object": "list", "data": [{**card, "created": 0}]})


async def _health(request: web.Request) -> web.Response:
    return web.Response()


def _check_key(request: web.Request, served: Served) -> None:
    given = request.headers.get("Authorization", "")
    expected = given if served.api_key is None else f"Bearer {served.api_key}"
    if not hmac.compare_digest(*(text.encode("utf-8", "surrogateescape") for text in (given, expected))):
        what = "Incorrect API key provided." if given else "You did not provide an API key (Authorization: Bearer KEY)."
        raise Refused(401, what, code="invalid_api_key")


def _check_length(messages: list[ChatMessage], sampling: dict[str, object], served: Served) -> None:
    """Refuse what does not fit the context; where nothing says how long the answer may be, the rest is its limit."""
    if served.max_model_len is None:
        return
    prompt = sum(tokens(message["content"]) + 4 for message in messages)
    answer = cast(int | None, sampling.get("max_completion_tokens") or sampling.get("max_tokens"))
    if prompt + (answer or 1) > served.max_model_len:
        wanted = f"you requested {answer} output tokens and " if answer else ""
        found = f"However, {wanted}your prompt contains at least {prompt} input tokens. Please reduce either."
        raise Refused(400, f"This model's maximum context length is {served.max_model_len} tokens. {found}", "messages")
    sampling["max_completion_tokens"] = answer or served.max_model_len - prompt


def _object(raw: bytes) -> dict[str, object]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"The body of your request is not JSON: {error}.") from None
    if not isinstance(body, dict):
        raise Refused(400, "The body of your request is not a JSON object.")
    return body


def _messages(body: dict[str, object]) -> list[ChatMessage]:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise Refused(400, "'messages' must be a list that holds at least one message.", "messages")
    return [_message(message, f"messages[{at}]") for at, message in enumerate(given)]


def _message(message: object, where: str) -> ChatMessage:
    if not isinstance(message, dict):
        raise Refused(400, f"'{where}' must be an object.", where)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(400, f"'{where}.role' must be one of {', '.join(sorted(ROLES))}.", f"{where}.role")
    if content is None and role == "assistant":
        content = ""
    elif isinstance(content, list):  # parts; only text has a meaning here
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise Refused(400, f"'{where}.content' must be text.", f"{where}.content")
    return {"role": role, "content": content}


def _sampling(body: dict[str, object]) -> dict[str, object]:
    """The sampling that the model obeys, checked."""
    stop = body.get("stop")
    endings = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(endings, list) or not all(isinstance(ending, str) for ending in endings):
        raise Refused(400, "'stop' must be a text or a list of texts.", "stop")
    sampling: dict[str, object] = {"stop": endings}
    for name, least in {"n": 1, "max_tokens": 1, "max_completion_tokens": 1, "seed": -(2**63)}.items():
        if (value := body.get(name)) is not None:
            if type(value) is not int or value < least:
                raise Refused(400, f"'{name}' must be a whole number, {least} or more.", name)
            sampling[name] = value
    if sampling.pop("n", 1) != 1:
        raise Refused(400, "'n' must be 1: this model has one answer to a prompt.", "n")
    return sampling


def _usage(completion: Completion) -> dict[str, object]:
    prompt, answer = completion.prompt_tokens, completion.completion_tokens
    counts = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    return {**counts, "prompt_tokens_details": {"cached_tokens": completion.cached_tokens}}


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


@web.middleware
async def _in_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors in the API's shape, those that the web framework makes (no such path, body too large) among them."""
    try:
        return await handler(request)
    except Refused as error:
        refused = error
    except web.HTTPException as error:
        refused = Refused(error.status, f"{error.reason}: {request.method} {request.path}")
    return _json({"error": refused.error}, refused.status)
