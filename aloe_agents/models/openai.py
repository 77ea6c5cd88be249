"""A model behind the openai SDK, for servers that need its authentication (Azure, for one).

It costs ten to twenty times the CPU of ``HttpModel`` a call, growing with the history, so it is for what that cannot
reach. The SDK's own retries and time limits are switched off: those are the endpoint's, and nobody else's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

from aloe_agents.errors import FailureReason, Transient
from aloe_agents.model import Call, Completion
from aloe_agents.models.answers import KEPT_IDLE, Server, completion_of, failure_of, place_of
from aloe_agents.text import one_line

if TYPE_CHECKING:
    from openai import AsyncOpenAI


NO_KEY = "none"
"""What the SDK is given for a server that wants no key: it insists on one."""


class OpenAIModel:
    """``model`` as ``client`` (an AsyncOpenAI or AsyncAzureOpenAI) reaches it. Give it :func:`connections` as its
    ``http_client``: the SDK's own keeps 100 open, and as long as servers do. ``key_from`` says in error messages where the
    client's key came from.
    """

    def __init__(self, client: AsyncOpenAI, model: str, *, key_from: str = "") -> None:
        self.name = model
        self._client = client.with_options(max_retries=0, timeout=None)
        key = "" if client.api_key == NO_KEY else client.api_key
        self._server = Server(place_of(str(client.base_url)), model, key, key_from)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()

    async def chat(self, call: Call) -> Completion:
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
            raise failure_of(error.status_code, answer.headers, answer.content, self._server) from None
        except openai.APITimeoutError:
            text = f"{self._server.place} gave no answer in the client's time"
            raise Transient(FailureReason.DEADLINE, text, uncertain=True) from None
        except openai.APIConnectionError as error:
            text = f"{self._server.place} cannot be reached: {one_line(str(error.__cause__ or error))}"
            raise Transient(FailureReason.UNREACHABLE, text, uncertain=True) from None
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
