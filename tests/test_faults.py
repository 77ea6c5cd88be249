"""What goes wrong between here and a model server, met on real sockets: told apart, tried again, or ended, as it should."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import aiohttp.web
import openai
import orjson
import pytest

from aloe_agents.building import build_endpoints
from aloe_agents.config import NEEDED_ROLES, load_config
from aloe_agents.errors import CallFailed, FailureReason, Fatal, Stopping, Transient
from aloe_agents.model import Call, Completion
from aloe_agents.models.answers import retry_after
from aloe_agents.models.endpoint import Endpoint, Limits
from aloe_agents.models.http import HttpModel
from aloe_agents.models.limits import Pace, Slots
from aloe_agents.models.openai import OpenAIModel
from aloe_agents.testing import run_virtual

KEY = "sk-canary-4711"
CALL = Call(messages=({"role": "user", "content": "hello"},), key="k1", conversation="c1")
Handler = Callable[[aiohttp.web.Request], Awaitable[aiohttp.web.StreamResponse]]


def answer(content: Any = "hi", finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}], "usage": {}}


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = aiohttp.web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = aiohttp.web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def said_by(
    status: int, body: Any, headers: dict[str, str] | None = None, sdk: bool = False
) -> Completion | Exception:
    """What becomes of one request that is answered so, sent directly or by the openai SDK."""

    async def handler(request: aiohttp.web.Request) -> aiohttp.web.Response:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        return aiohttp.web.Response(status=status, body=raw, headers=headers)

    async with serving(handler) as url:
        model: HttpModel | OpenAIModel = HttpModel(url, "m", key=KEY, key_from="ALOE_KEY")
        if sdk:
            model = OpenAIModel(openai.AsyncOpenAI(base_url=url, api_key=KEY), "m")
        try:
            return await model.chat(CALL)
        except (CallFailed, Fatal) as failure:
            assert KEY not in str(failure) and "\n" not in str(failure)
            return failure
        finally:
            await model.close()


R = FailureReason


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason", "text"),
    [
        (200, b"", Transient, R.BAD_RESPONSE, "no JSON"),
        (200, b"<html>busy</html>", Transient, R.BAD_RESPONSE, "no JSON ('<html>busy</html>')"),
        (200, b'{"choices": [{"mess', Transient, R.BAD_RESPONSE, "no JSON"),
        (200, b'{"choices": "\xff"}', Transient, R.BAD_RESPONSE, "no JSON"),
        (200, error("overloaded"), Transient, R.BAD_RESPONSE, "the error 'overloaded' at status 200"),
        (200, {"choices": None}, Transient, R.BAD_RESPONSE, "no choice at status 200"),
        (200, {"choices": []}, Transient, R.BAD_RESPONSE, "no choice at status 200"),
        (200, {"choices": [{"message": None}]}, Transient, R.BAD_RESPONSE, "no choice at status 200"),
        (200, [], Transient, R.BAD_RESPONSE, "no choice"),
        (200, answer(None), Transient, R.EMPTY, "without text"),
        (200, answer(" \n"), Transient, R.EMPTY, "without text"),
        (200, answer(None, reasoning_content="hm"), Transient, R.EMPTY, "raise max_tokens"),
        (200, answer("x", "content_filter"), CallFailed, R.FILTERED, "withheld"),
        (200, answer(None, refusal="no"), CallFailed, R.FILTERED, "withheld"),
        (307, b"", CallFailed, R.REFUSED_REQUEST, "status 307"),
        (400, error("This model's maximum context length is 8 tokens."), CallFailed, R.CONTEXT_OVERFLOW, "8 tokens"),
        (400, error("max_tokens must be at least 1, got -186"), CallFailed, R.CONTEXT_OVERFLOW, "-186"),
        (400, error("bad\nvalue"), CallFailed, R.REFUSED_REQUEST, "bad value"),
        (422, {"detail": []}, CallFailed, R.REFUSED_REQUEST, "status 422"),
        (401, error(f"Incorrect API key {KEY}"), Fatal, None, "refused the key in $ALOE_KEY: status 401"),
        (403, b"no", Fatal, None, "refused the key in $ALOE_KEY: status 403"),
        (404, error("The model `m` does not exist."), Fatal, None, "The model `m` does not exist."),
        (429, error("slow down"), Transient, R.RATE_LIMITED, "slow down"),
        (429, error("no money", code="insufficient_quota"), Fatal, None, "quota is used up"),
        (408, b"", Transient, R.SERVER_ERROR, "status 408"),
        (500, b"", Transient, R.SERVER_ERROR, "status 500"),
        (502, b"<html>", Transient, R.SERVER_ERROR, "status 502"),
        (503, error("loading"), Transient, R.SERVER_ERROR, "loading"),
    ],
)  # fmt: skip
async def test_each_answer_is_told_apart(status: int, body: Any, kind: type, reason: Any, text: str) -> None:
    failure = await said_by(status, body, {"Location": "http://127.0.0.1:1/"} if status == 307 else None)
    assert type(failure) is kind and text in str(failure), repr(failure)
    assert getattr(failure, "reason", None) == reason


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (200, answer(), Completion, None),
        (200, b"<html>", Transient, R.BAD_RESPONSE),
        (200, {"choices": []}, Transient, R.BAD_RESPONSE),
        (200, answer(" "), Transient, R.EMPTY),
        (400, error("maximum context length is 8"), CallFailed, R.CONTEXT_OVERFLOW),
        (401, error(f"Incorrect API key {KEY}"), Fatal, None),
        (404, error("no such model"), Fatal, None),
        (429, error("slow down"), Transient, R.RATE_LIMITED),
        (500, b"", Transient, R.SERVER_ERROR),
    ],
)
async def test_the_sdk_tells_the_same_apart(status: int, body: Any, kind: type, reason: Any) -> None:
    failure = await said_by(status, body, sdk=True)
    assert type(failure) is kind and getattr(failure, "reason", None) == reason, repr(failure)
    assert "without a key" not in str(failure)


@pytest.mark.parametrize("body", [error(f"bad key {KEY}"), f"<p>{KEY}</p>".encode()])
async def test_no_message_repeats_the_key(body: Any) -> None:
    failure = await said_by(200, body)
    assert isinstance(failure, Transient) and "***" in str(failure) and KEY not in str(failure)


async def test_a_lone_surrogate_becomes_storable_and_usage_is_read() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}
    body = orjson.dumps({**answer("hi SURROGATE"), "usage": usage}).replace(b"SURROGATE", b"\\ud83d\\ude00")
    completion = await said_by(200, body)
    assert isinstance(completion, Completion) and completion.text == "hi 😀"
    assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (7, 2, 5)
    assert completion.raw == body
    broken = await said_by(200, body.replace(b"\\ude00", b""))
    assert isinstance(broken, Completion) and broken.text == "hi \ufffd"
    junk = await said_by(200, {**answer(), "usage": [{"prompt_tokens": "many"}]})
    assert isinstance(junk, Completion) and junk.prompt_tokens == 0
    odd = {**answer("hi", finish="ODD"), "usage": {"prompt_tokens": 2**64 - 1}}
    odd_said = await said_by(200, orjson.dumps(odd).replace(b'"ODD"', b'"\\ud83d"'))
    assert isinstance(odd_said, Completion) and (odd_said.prompt_tokens, odd_said.finish_reason) == (0, "\ufffd")


async def test_an_oversize_body_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aloe_agents.models.http.LARGEST_BODY", 1000)
    failure = await said_by(200, answer("x" * 5000))
    assert isinstance(failure, CallFailed) and "more than 1000 bytes" in str(failure)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0), ({"retry-after-ms": "250", "retry-after": "9"}, 0.25), ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None), ({"retry-after": "soon"}, None), ({}, None), ({"retry-after": "inf"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, None), ({"retry-after": "1209600"}, 1209600.0),
    ],
)  # fmt: skip
def test_retry_after_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


QUICK = Limits(attempts=3, timeout=0.3, deadline=30)


async def hits(
    handler: Handler, limits: Limits = QUICK, **options: Any
) -> tuple[Completion | Exception, int, Endpoint]:
    """One call through an endpoint: what became of it, and how often the server was asked."""
    count = 0

    async def counted(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        nonlocal count
        count += 1
        assert request.headers["Idempotency-Key"] == "k1"
        return await handler(request)

    async with serving(counted) as url:
        endpoint = Endpoint("e", [HttpModel(url, "m")], limits, **options)
        result: Completion | Exception
        try:
            result = await endpoint.chat(CALL)
        except (CallFailed, Fatal) as failure:
            result = failure
        await endpoint.close()
    assert endpoint.slots.taken == 0
    return result, count, endpoint


async def test_a_call_that_never_succeeds_is_sent_exactly_as_often_as_allowed() -> None:
    async def broken(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(status=500)

    failure, count, endpoint = await hits(broken)
    assert isinstance(failure, Transient) and count == 3
    assert endpoint.tally.retries == {"server-error": 3}


async def test_a_dripping_body_does_not_outlive_the_deadline() -> None:
    async def drip(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        for byte in b"x" * 100:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.1)
        return response

    began = asyncio.get_running_loop().time()
    failure, count, _ = await hits(drip, Limits(attempts=1, timeout=0.3))
    assert isinstance(failure, Transient) and failure.reason is R.DEADLINE and failure.uncertain and count == 1
    assert asyncio.get_running_loop().time() - began < 1.3


async def test_a_cut_body_and_a_dropped_connection_are_uncertain_and_tried_again() -> None:
    turn = 0

    async def cut(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        nonlocal turn
        turn += 1
        if turn == 1:
            response = aiohttp.web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b"{")
        if turn <= 2:
            assert request.transport
            request.transport.close()
            return aiohttp.web.Response()
        return aiohttp.web.json_response(answer())

    completion, count, endpoint = await hits(cut)
    assert isinstance(completion, Completion) and completion.text == "hi" and count == 3
    assert endpoint.tally.retries == {"bad-response": 1, "unreachable": 1}


async def test_a_server_that_is_not_there_is_unreachable_and_nothing_was_sent() -> None:
    model = HttpModel("http://127.0.0.1:9/v1", "m")
    with pytest.raises(Transient, match=r"127\.0\.0\.1:9 cannot be reached") as failure:
        await model.chat(CALL)
    assert failure.value.reason is R.UNREACHABLE and not failure.value.uncertain
    await model.close()


async def test_a_429_pauses_everybody_costs_no_attempt_and_is_obeyed() -> None:
    times: list[float] = []

    async def limited(request: aiohttp.web.Request) -> aiohttp.web.Response:
        times.append(asyncio.get_running_loop().time())
        if len(times) <= 4:
            return aiohttp.web.json_response(error("slow down"), status=429, headers={"retry-after": "0.3"})
        return aiohttp.web.json_response(answer())

    async with serving(limited) as url:
        endpoint = Endpoint("e", [HttpModel(url, "m")], Limits(attempts=1, capacity=1))
        await asyncio.gather(*(endpoint.chat(CALL) for _ in range(10)))
        await endpoint.close()
    assert len(times) == 14 and endpoint.tally.retries == {"rate-limited": 4}
    assert all(later - earlier >= 0.3 for earlier, later in pairwise(times[:5]))


async def test_a_request_to_come_back_in_two_weeks_ends_the_run_in_one_line() -> None:
    async def limited(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response(error("slow down"), status=429, headers={"retry-after": "1209600"})

    failure, count, _ = await hits(limited)
    assert isinstance(failure, Fatal) and "asked us to wait 336.0 hours (Retry-After)" in str(failure) and count == 1


async def test_loopback_ignores_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fine(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response(answer())

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    completion, count, _ = await hits(fine)
    assert isinstance(completion, Completion) and count == 1


async def test_as_many_connections_as_calls_are_opened_once_and_kept() -> None:
    at_once, peers, everybody = 0, set(), asyncio.Event()

    async def together(request: aiohttp.web.Request) -> aiohttp.web.Response:
        nonlocal at_once
        assert request.transport
        peers.add(request.transport.get_extra_info("peername"))
        at_once += 1
        if at_once == 300:
            everybody.set()
        await everybody.wait()
        return aiohttp.web.json_response(answer())

    async with serving(together) as url:
        endpoint = Endpoint("e", [HttpModel(url, "m")], Limits(capacity=300))
        for _ in range(2):
            await asyncio.wait_for(asyncio.gather(*(endpoint.chat(CALL) for _ in range(300))), 30)
        await endpoint.close()
    assert len(peers) == 300 and endpoint.tally.retries == {}


async def test_an_engine_says_how_many_requests_wait_in_it_and_others_are_not_asked() -> None:
    asked: list[str] = []
    metrics = b"""# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
vllm:num_requests_running{engine="0",model_name="m"} 64.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0
vllm:num_requests_waiting{engine="1",model_name="m"} 5.0
"""

    async def engine(request: aiohttp.web.Request) -> aiohttp.web.Response:
        asked.append(request.path)
        return aiohttp.web.Response(body=metrics if len(asked) == 1 else b"up 1", status=200 if len(asked) < 3 else 404)

    async with serving(engine) as url:
        for key, expected in (("", 12), ("", None), ("", None), ("secret", None)):
            model = HttpModel(url, "m", key=key)
            assert await model.waiting() == expected
            await model.close()
    assert asked == ["/metrics"] * 3


@pytest.mark.parametrize("client", ["openai", "azure"])
async def test_the_sdk_is_reached_from_the_configuration(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[aiohttp.web.Request] = []

    async def fine(request: aiohttp.web.Request) -> aiohttp.web.Response:
        asked.append(request)
        return aiohttp.web.json_response(answer())

    monkeypatch.setenv("SOME_KEY", KEY)
    async with serving(fine) as url:
        azure = {"base_url": url.removesuffix("/v1"), "api_version": "2025-01-01"} if client == "azure" else {}
        table = {"base_url": url, "model": "m", "api_key_env": "SOME_KEY", "client": client, **azure}
        roles = {name: {"endpoint": "there"} for name in NEEDED_ROLES}
        config = load_config(None, {"endpoints.there": table, "roles": roles})
        endpoint = build_endpoints(config)["there"]
        assert (await endpoint.chat(CALL)).text == "hi"
        await endpoint.close()
    assert asked[0].headers["Idempotency-Key"] == "k1"
    if client == "azure":
        assert asked[0].path == "/openai/deployments/m/chat/completions"
        assert asked[0].query["api-version"] == "2025-01-01" and asked[0].headers["api-key"] == KEY
    else:
        assert asked[0].path == "/v1/chat/completions" and asked[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_a_request_that_ends_the_run_is_written_down_as_failed_not_as_under_way() -> None:
    class Log:
        said: list[str]

        async def sent(self, endpoint: str, queued: float) -> None:
            self.said = ["sent"]

        def failed(self, reason: str, *, uncertain: bool) -> None:
            self.said.append(f"{reason} {uncertain}")

    async def unknown(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response(error("no such model"), status=404)

    log = Log()
    async with serving(unknown) as url:
        endpoint = Endpoint("e", [HttpModel(url, "m")], QUICK)
        with pytest.raises(Fatal):
            await endpoint.chat(Call(messages=CALL.messages, log=log))
        await endpoint.close()
    assert log.said == ["sent", "refused-request False"]


class Recording:
    """A replica that remembers which conversations it served, and may be down."""

    name = "m"

    def __init__(self, down: bool = False) -> None:
        self.down = down
        self.served: Counter[str] = Counter()

    async def chat(self, call: Call) -> Completion:
        if self.down:
            raise Transient(R.UNREACHABLE, "down")
        self.served[call.conversation] += 1
        return Completion(text="hi")


def test_a_conversation_stays_with_its_replica_and_moves_on_when_that_is_down() -> None:
    async def main(replicas: list[Recording]) -> None:
        endpoint = Endpoint("e", replicas)
        for _ in range(3):
            for n in range(40):
                await endpoint.chat(Call(messages=(), conversation=f"c{n}"))

    replicas = [Recording(), Recording(), Recording()]
    run_virtual(main(replicas))
    homes = [set(replica.served) for replica in replicas]
    assert all(homes) and sum(map(len, homes)) == 40
    down = [Recording(), Recording(down=True), Recording()]
    run_virtual(main(down))
    assert not down[1].served and all(homes[n] <= set(down[n].served) for n in (0, 2))


def test_requests_and_tokens_a_minute_hold() -> None:
    async def main(limits: Limits) -> float:
        endpoint = Endpoint("e", [Recording()], limits)
        await asyncio.gather(*(endpoint.chat(CALL) for _ in range(121)))
        return asyncio.get_running_loop().time()

    assert run_virtual(main(Limits(requests_per_minute=60, capacity=200))) == pytest.approx(120, rel=0.02)
    sampled = Limits(tokens_per_minute=6000, capacity=1)
    assert run_virtual(main(sampled)) < 10  # what was booked and not used is given back
    pace = Pace(60)
    assert [pace.book(1, now) for now in (0.0, 0.0, 0.5, 10.0)] == [0.0, 1.0, 1.5, 0.0]


async def test_waiting_calls_go_by_urgency_then_first_come() -> None:
    slots, order = Slots(1), []

    async def worker(name: str, priority: int) -> None:
        await slots.take(priority)
        order.append(name)
        await asyncio.sleep(0)
        slots.give()

    await slots.take(0)
    tasks = [asyncio.create_task(worker(*job)) for job in (("a", 1), ("b", 5), ("c", 1), ("d", 9), ("e", 5))]
    await asyncio.sleep(0)
    assert slots.waiting == 5
    slots.give()
    await asyncio.gather(*tasks)
    assert order == ["d", "b", "e", "a", "c"] and slots.taken == 0


async def test_a_place_handed_over_at_the_moment_of_a_cancellation_is_not_lost() -> None:
    slots = Slots(1)
    await slots.take(0)
    task = asyncio.create_task(slots.take(0))
    await asyncio.sleep(0)
    slots.give()  # handed over ...
    task.cancel()  # ... and cancelled before it could be used
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slots.taken == 0
    await asyncio.wait_for(slots.take(0), 1)


@pytest.mark.parametrize("stage", ["queue", "flight", "backoff", "pause"])
async def test_cancellation_passes_at_every_stage_and_gives_the_place_back(stage: str) -> None:
    reached = asyncio.Event()

    class Model:
        name = "m"

        async def chat(self, call: Call) -> Completion:
            reached.set()
            if stage == "flight" or stage == "queue":
                await asyncio.get_running_loop().create_future()
            raise Transient(R.RATE_LIMITED if stage == "pause" else R.SERVER_ERROR, "again", retry_after=30.0)

    endpoint = Endpoint("e", [Model()], Limits(capacity=1))
    tasks = [asyncio.create_task(endpoint.chat(CALL)) for _ in range(2)]
    await reached.wait()
    await asyncio.sleep(0)
    for task in reversed(tasks):
        task.cancel()
    done, _ = await asyncio.wait(tasks, timeout=1)
    assert len(done) == 2 and all(task.cancelled() for task in tasks)
    assert endpoint.slots.taken == 0


async def test_halting_lets_what_was_sent_land_and_stops_the_rest() -> None:
    gate, stopped = asyncio.Event(), False

    class Model:
        name = "m"

        async def chat(self, call: Call) -> Completion:
            await gate.wait()
            return Completion(text="landed")

    endpoint = Endpoint("e", [Model()], Limits(capacity=1))
    call = Call(messages=(), stopping=lambda: stopped)
    tasks = [asyncio.create_task(endpoint.chat(call)) for _ in range(3)]
    await asyncio.sleep(0)
    stopped = True
    endpoint.halt()
    gate.set()
    landed, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(landed, Completion) and all(isinstance(other, Stopping) for other in others)
