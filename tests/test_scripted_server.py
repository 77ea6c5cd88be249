"""The scripted model behind HTTP: a real server on loopback, asked by aiohttp, by the openai SDK and by HttpModel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError

from aloe_agents.errors import CallFailed, ConfigError, FailureReason, Fatal
from aloe_agents.model import Call, ChatMessage
from aloe_agents.models.http import HttpModel
from aloe_agents.models.scripted.model import ScriptedModel, complete, tokens
from aloe_agents.models.scripted.server import make_app, serve

PERSONA = "<profile>She has a dog. She is a nurse. She likes tea.</profile><personality>She is shy.</personality>"
MESSAGES: list[ChatMessage] = [{"role": "system", "content": PERSONA}, {"role": "user", "content": "Go on."}]
ASKED: dict[str, Any] = {"model": "scripted", "messages": MESSAGES}
KEY = "sk-a-key-that-nobody-may-see"


class Client:
    """A session on one server's address."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self.session = session
        self.base_url = base_url
        self.url = f"{base_url}/chat/completions"

    async def post(self, body: Any, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.session.post(self.url, data=data, headers=headers) as response:
            assert response.content_type == "application/json"
            return response.status, orjson.loads(await response.read())


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[Client]:
    async with serve(make_app(**options)) as base_url, aiohttp.ClientSession() as session:
        yield Client(session, base_url)


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_an_answer_has_the_shape_of_the_api_and_the_text_of_the_model() -> None:
    expected = complete(MESSAGES, {})
    async with client() as server:
        status, answer = await server.post(ASKED)
    assert status == 200
    assert answer["object"] == "chat.completion" and answer["model"] == "scripted"
    assert answer["id"].startswith("chatcmpl-") and answer["created"] > 1_700_000_000
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"] == expected.text
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert answer["usage"] == {
        "prompt_tokens": expected.prompt_tokens,
        "completion_tokens": expected.completion_tokens,
        "total_tokens": expected.prompt_tokens + expected.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_over_http_and_in_process_it_says_the_same() -> None:
    async with client(seed=4) as server:
        for sampling in ({}, {"seed": 3}, {"max_tokens": 2}, {"stop": "have"}, {"seed": 8, "stop": ["a", "b"], "n": 1}):
            [choice] = (await server.post({**ASKED, **sampling, "temperature": 0.3}))[1]["choices"]
            expected = await ScriptedModel(seed=4).chat(Call(messages=tuple(MESSAGES), sampling=sampling))
            assert choice["message"]["content"] == expected.text
            assert choice["finish_reason"] == expected.finish_reason


async def test_text_in_parts_counts_as_text_and_an_assistant_may_have_said_nothing() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}]}]
    async with client() as server:
        in_parts = await server.post({**ASKED, "messages": parts})
        whole = await server.post({**ASKED, "messages": [{"role": "user", "content": "Hello"}]})
        silent = await server.post({**ASKED, "messages": [*MESSAGES, {"role": "assistant", "content": None}]})
    assert in_parts[1]["choices"] == whole[1]["choices"]
    assert silent[0] == 200


async def test_a_stream_brings_the_same_text_in_pieces() -> None:
    async with client() as server, server.session.post(server.url, json={**ASKED, "stream": True}) as response:
        assert response.status == 200 and response.content_type == "text/event-stream"
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [orjson.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" and "usage" not in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant" and len(deltas) > 3
    assert "".join(delta.get("content", "") for delta in deltas) == complete(MESSAGES, {}).text
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]


async def test_a_reader_who_leaves_a_stream_leaves_the_server_well() -> None:
    long = [{"role": "user", "content": "Hello"}]
    async with client(latency=0.02) as server:
        for _ in range(5):
            response = await server.session.post(server.url, json={**ASKED, "messages": long, "stream": True})
            response.close()
        assert (await server.post(ASKED))[0] == 200


async def test_models_and_health() -> None:
    async with client(model="stand-in", max_model_len=512) as server:
        async with server.session.get(f"{server.base_url}/models") as response:
            [card] = (await response.json())["data"]
        async with server.session.get(server.base_url.replace("/v1", "/health")) as response:
            assert response.status == 200
        status, _ = await server.post({**ASKED, "model": "stand-in"})
    assert (card["id"], card["object"], card["max_model_len"]) == ("stand-in", "model", 512)
    assert status == 200


async def test_latency_is_for_each_answer_and_not_for_their_sum() -> None:
    async with client(latency=0.1) as server:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.gather(*(server.post(ASKED) for _ in range(20)))
        assert 0.099 <= loop.time() - begun < 1.5


async def test_each_accepted_request_is_told_with_its_key_and_no_other_is() -> None:
    told: list[tuple[str | None, Any]] = []
    async with client(on_request=lambda key, body: told.append((key, body["messages"])), max_model_len=100) as server:
        await server.post(ASKED, **{"Idempotency-Key": "k1"})
        await server.post(ASKED)
        await server.post({**ASKED, "model": "other"})
        await server.post({**ASKED, "messages": []})
        await server.post({**ASKED, "max_tokens": 4_000})
    assert told == [("k1", MESSAGES), (None, MESSAGES)]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [*MESSAGES, {"role": "friend", "content": "Hi"}]}, "messages[2].role"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": [{"text": 5}]}]}, "messages[0].content"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
    ],
)
async def test_a_malformed_request_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    async with client() as server:
        status, answer = await server.post({**ASKED, **changes})
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param and param.split(".")[0] in answer["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'"text"', b"\xff", b'{"a": NaN}'])
async def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    async with client() as server:
        status, answer = await server.post(body)
    assert status == 400 and "JSON" in answer["error"]["message"]


async def test_an_unknown_model_is_refused_with_the_one_that_is_served() -> None:
    async with client(model="stand-in") as server:
        for body in (ASKED, {"messages": MESSAGES}):
            status, answer = await server.post(body)
            assert status == 404
            assert "`stand-in`" in answer["error"]["message"]
            assert (answer["error"]["param"], answer["error"]["type"]) == ("model", "NotFoundError")


async def test_a_key_is_demanded_and_never_repeated() -> None:
    async with client(api_key=KEY) as server:
        wrong = "sk-some-other-secret"
        for headers in (
            {},
            {"Authorization": f"Bearer {wrong}"},
            {"Authorization": KEY},
            {"Authorization": "Bearer é"},
        ):
            status, answer = await server.post(ASKED, **headers)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
            assert not any(secret in orjson.dumps(answer).decode() for secret in (KEY, wrong))
        assert (await server.post(ASKED, Authorization=f"Bearer {KEY}"))[0] == 200
        async with server.session.get(f"{server.base_url}/models") as response:
            assert response.status == 401
        async with server.session.get(server.base_url.replace("/v1", "/health")) as response:
            assert response.status == 200


async def test_a_prompt_beyond_the_context_is_refused_with_the_numbers() -> None:
    prompt = sum(tokens(message["content"]) + 4 for message in MESSAGES)
    async with client(max_model_len=prompt + 2) as server:
        status, answer = await server.post(ASKED)
        [choice] = answer["choices"]
        assert (status, choice["finish_reason"], len(choice["message"]["content"])) == (200, "length", 8)
        assert (await server.post({**ASKED, "max_tokens": 2}))[0] == 200
        status, answer = await server.post({**ASKED, "max_tokens": 3})
        assert status == 400
        assert f"maximum context length is {prompt + 2} tokens. However, you requested 3" in answer["error"]["message"]
    async with client(max_model_len=prompt) as server:
        status, answer = await server.post(ASKED)
        assert f"However, your prompt contains at least {prompt} input tokens" in answer["error"]["message"]


async def test_other_paths_and_methods_are_refused_in_shape() -> None:
    async with client() as server:
        for method, path, status in (("GET", "/chat/completions", 405), ("POST", "/completions", 404)):
            async with server.session.request(method, server.base_url + path) as response:
                assert response.status == status
                assert path in (await response.json())["error"]["message"]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
NAMES = ("messages", "n", "max_tokens", "max_completion_tokens", "stop", "seed", "stream", "stream_options")


@settings(max_examples=60, deadline=None)
@given(bodies=st.lists(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3), min_size=1, max_size=8))
def test_no_body_upsets_the_server(bodies: list[dict[str, Any]]) -> None:
    async def ask() -> None:
        async with client() as server:
            for body in bodies:
                data = orjson.dumps({**ASKED, **body})
                async with server.session.post(server.url, data=data) as response:
                    assert response.status in (200, 400), body

    asyncio.run(ask())


# --- serving ---------------------------------------------------------------------------------------------------------


async def test_requests_in_flight_are_answered_before_the_server_goes() -> None:
    arrived = asyncio.Event()
    async with aiohttp.ClientSession() as session:
        app = make_app(latency=0.2, on_request=lambda key, body: arrived.set())
        async with serve(app) as base_url:
            asked = asyncio.create_task(Client(session, base_url).post(ASKED))
            await arrived.wait()
        assert (await asked)[0] == 200
        with pytest.raises(aiohttp.ClientError):
            await Client(session, base_url).post(ASKED)


async def test_an_address_that_is_taken_is_named() -> None:
    async with serve(make_app()) as base_url:
        port = int(base_url.rsplit(":", 1)[1].removesuffix("/v1"))
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            async with serve(make_app(), port=port):
                pass


# --- other people's clients, and ours --------------------------------------------------------------------------------


@asynccontextmanager
async def sdk(key: str = "any", **options: Any) -> AsyncIterator[AsyncOpenAI]:
    async with serve(make_app(**options)) as base_url, AsyncOpenAI(base_url=base_url, api_key=key) as openai:
        yield openai


async def test_the_openai_sdk_reads_answers_and_models() -> None:
    async with sdk(api_key=KEY, key=KEY) as openai:
        answer = await openai.chat.completions.create(
            model="scripted",
            messages=[{"role": "system", "content": PERSONA}, {"role": "user", "content": "Go on."}],
            seed=3,
            max_tokens=50,
        )
        models = [model.id async for model in openai.models.list()]
    assert answer.choices[0].message.content == complete(MESSAGES, {"seed": 3}).text
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert models == ["scripted"]


async def test_the_openai_sdk_reads_streams_with_usage() -> None:
    async with sdk() as openai:
        stream = await openai.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    expected = complete([{"role": "user", "content": "Hello"}], {})
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected.text
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == expected.completion_tokens
    assert chunks[-1].choices == []


async def test_the_openai_sdk_knows_the_errors() -> None:
    async with sdk(api_key=KEY, max_model_len=10) as openai:
        with pytest.raises(AuthenticationError):
            await openai.models.list()
        known = openai.with_options(api_key=KEY)
        with pytest.raises(NotFoundError, match="scripted"):
            await known.chat.completions.create(model="other", messages=[{"role": "user", "content": "Hello"}])
        with pytest.raises(BadRequestError, match="maximum context length is 10 tokens") as refused:
            await known.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "Hello " * 9}])
        assert refused.value.param == "messages"


async def test_the_projects_own_client_reads_answers_and_errors() -> None:
    call = Call(messages=tuple(MESSAGES), sampling={"seed": 2}, key="k")
    async with serve(make_app(api_key=KEY, max_model_len=60)) as base_url:
        models = {
            name: HttpModel(base_url, model, key=key)
            for name, model, key in (
                ("right", "scripted", KEY),
                ("wrong model", "other", KEY),
                ("wrong key", "scripted", "k"),
            )
        }
        try:
            answer = await models["right"].chat(call)
            assert (answer.text, answer.prompt_tokens) == (
                complete(MESSAGES, {"seed": 2}).text,
                complete(MESSAGES, {}).prompt_tokens,
            )
            with pytest.raises(Fatal, match="other"):
                await models["wrong model"].chat(call)
            with pytest.raises(Fatal, match="401"):
                await models["wrong key"].chat(call)
            with pytest.raises(CallFailed) as failed:
                await models["right"].chat(Call(messages=tuple(MESSAGES) * 3))
            assert failed.value.reason is FailureReason.CONTEXT_OVERFLOW
        finally:
            for model in models.values():
                await model.close()
