"""A model behind the openai SDK, for servers that need its authentication (Azure, for one).

A call costs ten to twenty times the CPU of one by ``HttpModel``, and more as the history grows, so this is for servers
which that cannot reach. The SDK's own retries and time limits are switched off: the endpoint has those.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from aloe_agents.errors import FailureReason, Transient
from aloe_agents.model import Call, Completion
from aloe_agents.models.answers import KEPT_IDLE, Server, completion_of, failure_of, unreachable

if TYPE_CHECKING:
    from openai import AsyncOpenAI


NO_KEY = "none"
"""The key given to the SDK, which insists on one, for a server that wants none."""


class OpenAIModel:
    """``model`` as ``client`` (an AsyncOpenAI or AsyncAzureOpenAI) reaches it.

    Give the client :func:`connections` as its ``http_client``: the SDK's own keeps 100 connections open, and for as long
    as servers do. ``key_from`` is the variable that error messages name in place of the client's key.
    ``async with OpenAIModel(...) as model:`` closes the client at the end. Raises ConfigError for a key that no header
    can carry.
    """

    def __init__(self, client: AsyncOpenAI, model: str, *, key_from: str = "") -> None:
        self.name = model
        self._client = client.with_options(max_retries=0, timeout=None)
        key = "" if client.api_key == NO_KEY else client.api_key
        self._server = Server(f"{str(client.base_url).rstrip('/')}/chat/completions", model, key, key_from)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()

    async def chat(self, call: Call) -> Completion:
        """Send ``call`` once. Raises Transient, CallFailed or Fatal, with the server's own words."""
        import openai

        try:
            response = await self._client.chat.completions.with_raw_response.create(
                model=self.name,
                messages=cast(Any, call.messages),
                extra_headers={"Idempotency-Key": call.key} if call.key else {},
                extra_body=dict(call.sampling),
            )
        except openai.APIStatusError as error:
            answer = error.response
            asked = replace(self._server, url=str(answer.url.copy_with(query=None)))  # which Azure's client changes
            raise failure_of(error.status_code, answer.headers, answer.content, asked) from None
        except openai.APITimeoutError:
            text = f"{self._server.place} gave no answer within the client's own time limit"
            raise Transient(FailureReason.DEADLINE, text, uncertain=True) from None
        except openai.APIConnectionError as error:
            raise unreachable(error.__cause__ or error, self._server, uncertain=True) from None
        return completion_of(response.content, self._server)


def connections(trust_env: bool = True) -> Any:
    """An ``http_client`` for the SDK that opens and keeps as many connections as there are calls in flight.

    ``trust_env`` says whether the environment's proxies are used.
    """
    import openai

    kind = openai.DefaultAsyncHttpxClient
    module = next(base.__module__ for base in kind.__mro__ if base.__name__ == "AsyncClient")  # httpx2, or older httpx
    limits = importlib.import_module(module.partition(".")[0]).Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_IDLE
    )
    return kind(limits=limits, trust_env=trust_env)
