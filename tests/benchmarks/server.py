"""A load server that costs less than any client: canned answers over bare HTTP/1.1. It runs in a process of its own.

Every part of the paper's cast can read the answer, which is as long as a chat message. Without latency it answers at
once; with it, after a lognormal service time that is a function of the request's Idempotency-Key alone, so that a
schedule's lower bound can be worked out exactly afterwards (:func:`service_seconds`).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import orjson
import uvloop

TEXT = (
    "Profile: Keeps two beehives behind the allotment shed and sells the honey on Saturdays. Has a sister in Porto "
    "who calls every Sunday evening, and a knee that tells the weather better than the radio does.\n"
    "Personalities: Dry, patient, a little stubborn about being helped, quick to laugh at mishaps of the day."
)
BODY = orjson.dumps(
    {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "load",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 700,
            "completion_tokens": 72,
            "total_tokens": 772,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def service_seconds(key: str, mean: float, sigma: float) -> float:
    """The lognormal service time of the request with this Idempotency-Key: its mean in seconds, sigma of its logarithm."""
    return random.Random(key).lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)


class Connection(asyncio.Protocol):
    """One kept-alive connection, whose requests come one after another."""

    def __init__(self, mean: float, sigma: float, hold: bool) -> None:
        self.mean, self.sigma, self.hold = mean, sigma, hold
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        received = self.received
        received += data
        while (end := received.find(b"\r\n\r\n")) >= 0:
            head = bytes(received[:end]).lower()
            length = int(_header(head, b"\r\ncontent-length:") or 0)
            if len(received) < end + 4 + length:
                return
            held = self.hold and (b"<conversation>" in received or b"<profile>" not in received)
            del received[: end + 4 + length]
            if held:
                continue
            if self.mean:
                seconds = service_seconds(_header(head, b"\r\nidempotency-key:").decode(), self.mean, self.sigma)
                asyncio.get_running_loop().call_later(seconds, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


def _header(head: bytes, name: bytes) -> bytes:
    start = head.find(name)
    return b"" if start < 0 else head[start + len(name) :].split(b"\r\n", 1)[0].strip()


async def _main(mean: float, sigma: float, hold: bool) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(mean, sigma, hold), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def load_server(mean: float = 0.0, sigma: float = 0.5, *, hold: bool = False) -> Iterator[str]:
    """A load server in a process of its own; yields its base URL. With ``hold`` it answers simulated users alone, so
    that every conversation comes to have two calls in flight, and stays so.
    """
    command = [sys.executable, "-m", "tests.benchmarks.server", "--mean", str(mean), "--sigma", str(sigma)]
    command += ["--hold"] if hold else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mean", type=float, default=0.0)
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--hold", action="store_true")
    given = parser.parse_args()
    uvloop.run(_main(given.mean, given.sigma, given.hold))
