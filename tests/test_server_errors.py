"""A server's own words reach the user, in whatever shape they come; and what is wrong with a URL or a certificate is said."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp.web
import openai
import orjson
import pytest

from aloe_agents.errors import ConfigError, Fatal, Transient
from aloe_agents.model import Call
from aloe_agents.models.answers import Server, completion_of, failure_of, models_of
from aloe_agents.models.http import HttpModel, is_loopback
from aloe_agents.models.openai import OpenAIModel

KEY = "sk-canary-4711-abcdef"
CALL = Call(messages=({"role": "user", "content": "hello"},))
SERVER = Server("http://h:1/v1/chat/completions", "some-model", KEY, "BIG_KEY")


def said(status: int, body: object, server: Server = SERVER) -> str:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    text = str(failure_of(status, {}, raw, server))
    assert "\n" not in text and KEY not in text and KEY[:8] not in text and KEY[-8:] not in text
    return text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no system role", "code": 7}}, "no system role"),
        ({"error": "no system role"}, "no system role"),
        ([{"error": {"code": 400, "message": "use a valid role", "status": "INVALID"}}], "use a valid role"),
        ({"detail": "no temperature here"}, "no temperature here"),
        ({"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "not a role"}]}, "body.messages.0.role: not a role"),
        ({"detail": [{"loc": ["body", "a"], "msg": "x"}, {"loc": ["body", "b"], "msg": "y"}]}, "body.a: x; body.b: y"),
        ({"detail": {"error": {"message": "nested"}}}, "nested"),
        ({"message": "access denied"}, "access denied"),
        ({"object": "error", "message": "too large", "type": "BadRequestError"}, "too large"),
        ({"error": "invalid_token", "error_description": "it expired"}, "invalid_token: it expired"),
        ({"title": "Bad Request", "detail": "n is 2"}, "n is 2: Bad Request"),
        ({"error": {"message": "Provider error", "metadata": {"raw": "GPU lost"}}}, "Provider error: GPU lost"),
        ({"reason": "gpu lost"}, '{"reason":"gpu lost"}'),
        (b"upstream connect error", "upstream connect error"),
        (b"<html><head><title>T</title></head><body><h1>502 Bad&nbsp;Gateway</h1><hr>nginx</body></html>", "502 Bad Gateway nginx"),
        (b"<head><title>Busy here</title></head>", "Busy here"),
        (b"<script>var key = 1 < 2</script><p>blocked</p>", "blocked"),
    ],
)  # fmt: skip
def test_the_words_of_every_shape_are_kept(body: object, words: str) -> None:
    assert said(422, body) == f"h:1: {words} (status 422)"
    assert words in said(500, body) and words in said(429, body) and words in said(401, body)
    if not isinstance(body, bytes) and words[0] != "{":
        with pytest.raises(Transient, match="at status 200"):
            completion_of(orjson.dumps(body), SERVER)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", {"detail": []}, b"[" * 100_000, b"<" * 100_000])
def test_a_body_without_words_leaves_the_status(body: object) -> None:
    assert said(500, body).startswith("h:1: ") and "status 500" in said(500, body)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": f"Incorrect key {KEY}"}},
        {"detail": [{"loc": [KEY], "msg": KEY}]},
        f"Bearer {KEY} is wrong".encode(),
        f"<p>{KEY[:-3]}...</p>".encode(),
        b" " * 180 + KEY.encode() * 3,
        {"unknown": KEY},
    ],
)
def test_no_shape_repeats_the_key_or_a_telling_part_of_it(body: object) -> None:
    for status in (400, 401, 404, 429, 500):
        said(status, body)
    with pytest.raises(Transient) as failed:
        completion_of(body if isinstance(body, bytes) else orjson.dumps(body), SERVER)
    assert KEY[:8] not in str(failed.value)


@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        ("http://h:1/chat/completions", b"404: Not Found",
         "h:1 has nothing at /chat/completions (status 404: Not Found); the base URL has no /v1: try http://h:1/v1"),
        ("http://h:1/models", b"", "h:1 has nothing at /models (status 404); the base URL has no /v1: try http://h:1/v1"),
        ("https://h/api/chat/completions", {"detail": "Not Found"},
         "h has nothing at /api/chat/completions (status 404: Not Found); the base URL has no /v1: try https://h/api/v1"),
        ("http://h:1/v1/chat/completions", {"detail": "Not Found"},
         "h:1 has nothing at /v1/chat/completions (status 404: Not Found)"),
        ("http://h/v1beta/openai/chat/completions", b"", "h has nothing at /v1beta/openai/chat/completions (status 404)"),
        ("http://h/openai/deployments/m/chat/completions", b"",
         "h has nothing at /openai/deployments/m/chat/completions (status 404)"),
        ("http://h/v1/chat/completions/chat/completions", b"",
         ("h has nothing at /v1/chat/completions/chat/completions (status 404); the base URL must end before "
          "/chat/completions: http://h/v1")),
        ("http://h:1/v1/chat/completions", {"error": {"message": "The model `some-model` does not exist."}},
         ("h:1: The model `some-model` does not exist. (status 404; asked for the model 'some-model' at "
          "/v1/chat/completions)")),
    ],
)  # fmt: skip
def test_a_404_names_the_path_and_only_where_the_server_does_the_model(url: str, body: object, expected: str) -> None:
    server = Server(url, "some-model")
    assert said(404, body, server) == expected
    assert "asked for the model 'some-model'" in said(404, {"error": {"code": "model_not_found"}}, server)
    assert isinstance(failure_of(405, {}, b"", server), Fatal)


def test_a_redirect_names_where_it_leads() -> None:
    failure = failure_of(308, {"location": "https://h/v1?x=1"}, b"", SERVER)
    assert str(failure) == "h:1 redirects to https://h/v1 (status 308), which is not followed"


def test_models_are_read_and_anything_else_is_refused() -> None:
    server = Server("http://h:1/models", "m")
    assert models_of(b'{"data": [{"id": "a"}, {"id": "b"}]}', server) == ["a", "b"]
    for raw in (b"<html>", b"[]", b'{"data": [{}]}', b'{"data": null}'):
        with pytest.raises(Transient, match="no list of models at /models; the base URL has no /v1: try http://h:1/v1"):
            models_of(raw, server)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LOCALHOST", "localhost.", "a.localhost", "127.8.8.8", "127.1", "0.0.0.0", "0", "[::1]",
     "[::]", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]", "[0:0:0:0:0:0:0:1]"],
)  # fmt: skip
def test_all_names_of_this_machine_are_known(host: str) -> None:
    assert is_loopback(f"http://{host}:8000/v1")


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "example.org", "localhost.example.org", "notlocalhost", "[fe80::1]", "[::ffff:8.8.8.8]"]
)
def test_other_machines_are_other_machines(host: str) -> None:
    assert not is_loopback(f"http://{host}:8000/v1")


@pytest.fixture
def unsigned(tmp_path: Path) -> ssl.SSLContext:
    """A certificate that nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


@asynccontextmanager
async def listening(context: ssl.SSLContext | None) -> AsyncIterator[str]:
    """The https URL of a server that speaks TLS with a certificate, or not at all."""
    runner = aiohttp.web.AppRunner(aiohttp.web.Application())
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("sdk", [False, True])
async def test_a_bad_certificate_ends_the_run_with_its_own_words_and_the_way_out(
    unsigned: ssl.SSLContext, sdk: bool
) -> None:
    async with listening(unsigned) as url:
        model: HttpModel | OpenAIModel = HttpModel(url, "m", key=KEY)
        if sdk:
            model = OpenAIModel(openai.AsyncOpenAI(base_url=url, api_key=KEY), "m")
        async with model:
            with pytest.raises(
                Fatal, match=r"certificate of 127\.0\.0\.1:\d+ was not accepted: .*self.signed.*SSL_CERT_FILE"
            ):
                await model.chat(CALL)


async def test_a_server_without_tls_is_told_from_one_with_a_bad_certificate() -> None:
    async with listening(None) as url, HttpModel(url, "m") as model:
        with pytest.raises(Fatal, match="does not speak TLS"):
            await model.chat(CALL)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "the base URL is empty"),
        ("localhost:8000/v1", "'localhost:8000/v1' is not an http(s) URL: it does not begin with http:// or https://"),
        ("models.example.org", "it does not begin with http://"),
        ("ftp://host/v1", "'ftp://host/v1' is not an http(s) URL: its scheme is 'ftp'"),
        ("http:///v1", "its host is missing"),
        ("http://:8000/v1", "its host is missing"),
        ("http://host:many/v1", "is not an http(s) URL"),
        ("http://[::1/v1", "is not an http(s) URL"),
        ("http://host:0/v1", "is not an http(s) URL"),
        ("http://ho st/v1", "is not an http(s) URL"),
        (f"http://user:{KEY}@host/v1", "no user, password or query"),
        (f"http://host/v1?key={KEY}", "no user, password or query"),
    ],
)
def test_a_url_that_cannot_be_asked_is_refused_at_once(url: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        HttpModel(url, "m")
    assert words in str(refused.value) and KEY not in str(refused.value)


@pytest.mark.parametrize("key", ["“sk-abc”", "sk-abc\n"])
def test_a_key_that_no_header_carries_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigError, match=r"the key in \$BIG_KEY holds a character") as refused:
        HttpModel("http://h/v1", "m", key=key, key_from="BIG_KEY")
    assert "abc" not in str(refused.value)
