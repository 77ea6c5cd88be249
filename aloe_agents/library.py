"""The verbs: everything that the commands do, from Python.

::

    run     = await aloe.simulate(cast, personas, out="runs/one", turns=10, seed=7)
    results = await aloe.evaluate(model, judge=judge, user=user)
    pool    = await aloe.grow("profiles", generator, out="pools/profiles.jsonl")
    again   = await aloe.rejudge("runs/one", judge)
    trained = aloe.train(aloe.TrainingPlan(method="sft", model="base", data="runs/one", out="models/sft"))
    table   = aloe.compare([results, ...])

Each returns a value, raises the project's errors, prints nothing and installs no signal handler. Each works under
``asyncio.run``, in a running loop (a notebook) and in a thread. With ``out`` everything is recorded there, and the same
call resumes. ``on_open`` is called with the :class:`~aloe_agents.runs.run.Run` once it is open, for whoever wants to
stop it or to watch its progress.

The functions here accept plain models where the sub-packages' own want agents, and put them into the built-in roles.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, Unpack, cast

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.bus import Observer
from aloe_agents.evaluation import evaluating, rejudging
from aloe_agents.evaluation.metrics import Normalisation
from aloe_agents.evaluation.records import ModelRecord
from aloe_agents.evaluation.results import Results
from aloe_agents.model import ChatModel
from aloe_agents.models.endpoint import Endpoint
from aloe_agents.models.http import HttpModel
from aloe_agents.models.serving import LocalModel, local_model, served
from aloe_agents.personas import Persona
from aloe_agents.pools import growing
from aloe_agents.pools.embedding import Embedder
from aloe_agents.pools.growth import State
from aloe_agents.pools.proposals import Kind
from aloe_agents.pools.similarity import THRESHOLD, Similarity
from aloe_agents.roles import Candidate, Generator, Judge, RolePlayer
from aloe_agents.runs.run import Run
from aloe_agents.runs.simulating import simulate
from aloe_agents.tree import Tree

__all__ = ["evaluate", "grow", "rejudge", "simulate"]


async def evaluate(
    model: ChatModel | Agent | Path | str,
    *,
    judge: ChatModel | Agent | Sequence[Agent],
    user: ChatModel | Agent,
    cases: Sequence[Persona] | None = None,
    out: Path | str | None = None,
    turns: int = 10,
    seed: int = 0,
    live: int | None = None,
    normalisation: Normalisation = "all",
    force: bool = False,
    observers: Sequence[Observer] = (),
    on_open: Callable[[Run], None] | None = None,
    vllm_options: Sequence[str] = (),
) -> Results:
    """Measure how well ``model`` adapts to the users it talks to: the ALOE benchmark (the paper's section 3).

    ``model`` is a model, an agent that answers under the label ``candidate``, or the directory of a transformers model or
    a LoRA adapter, which vLLM serves meanwhile (``vllm_options`` are added to its command line). ``judge`` is a model, an
    agent, or several agents: a panel. ``user`` is the model or agent that plays the personas. ``cases`` default to the
    package's 100 personas. The other arguments are those of :func:`simulate`.

    Raises ConfigError before anything is asked, and Fatal if the evaluation cannot continue: all answers are kept.
    """
    judges = list(judge) if isinstance(judge, Sequence) else [_agent(judge, Judge)]
    async with contextlib.AsyncExitStack() as stack:
        record = None
        if isinstance(model, Path | str):
            local = local_model(Path(model))
            log = Path(out or ".") / "vllm.log"
            model = await stack.enter_async_context(_served(local, log, vllm_options))
            base = str(local.base) if local.base else None
            record = ModelRecord(
                name=local.path.name,
                endpoint=local.name,
                directory=str(local.path),
                base=base,
                vllm=tuple(vllm_options),
            )
        return await evaluating.evaluate(
            _agent(_limited(model), Candidate),
            judges=judges,
            user=_agent(user, RolePlayer),
            cases=cases,
            out=out,
            turns=turns,
            seed=seed,
            live=live,
            normalisation=normalisation,
            model=record,
            force=force,
            observers=observers,
            on_open=on_open,
        )


async def grow(
    of: Kind,
    generator: ChatModel | Agent,
    out: Path | str | None = None,
    *,
    seeds: growing.Seeds | None = None,
    target: int | None = None,
    embedder: Embedder | None = None,
    similarity: Similarity | Literal["off"] = "centred",
    threshold: float = THRESHOLD,
    force: bool = False,
    observers: Sequence[Observer] = (),
    on_open: Callable[[Run], None] | None = None,
    on_round: Callable[[State], None] | None = None,
    **rules: Unpack[growing.GrowthRules],
) -> growing.Pool:
    """Let a pool of ``profiles`` or ``personalities`` grow by self-generation and filtering (the paper's section 2.1).

    ``generator`` is a model, or an agent that hears RoundOpened and says Proposed. ``out`` is the pool's file; the growth is
    recorded beside it, and the same call resumes. See :func:`aloe_agents.pools.growing.grow` for the rest.

    Raises ConfigError before anything is asked, and Fatal if the growth cannot continue: all answers are kept.
    """
    return await growing.grow(
        of,
        _agent(generator, Generator),
        out,
        seeds=seeds,
        target=target,
        embedder=embedder,
        similarity=similarity,
        threshold=threshold,
        force=force,
        observers=observers,
        on_open=on_open,
        on_round=on_round,
        **rules,
    )


async def rejudge(
    trees: Iterable[Tree] | Path | str,
    judge: ChatModel | Agent,
    *,
    out: Path | str | None = None,
    passes: int = 1,
    live: int | None = None,
    force: bool = False,
    observers: Sequence[Observer] = (),
    on_open: Callable[[Run], None] | None = None,
) -> rejudging.Rejudged:
    """Have ``judge``, a model or an agent, score every answer of a finished run again, ``passes`` times.

    ``trees`` is the directory of a run or an evaluation, or the trees themselves. A model becomes a Judge of its own name.
    See :func:`aloe_agents.evaluation.rejudging.rejudge` for the rest.

    Raises ConfigError before anything is asked, and Fatal if it cannot continue: all answers are kept.
    """
    agent = _agent(judge, lambda model: Judge(model, name=model.name.replace("/", "-")))
    return await rejudging.rejudge(
        trees, agent, out=out, passes=passes, live=live, force=force, observers=observers, on_open=on_open
    )


@contextlib.asynccontextmanager
async def _served(local: LocalModel, log: Path, options: Sequence[str]) -> AsyncIterator[Endpoint]:
    """An endpoint at a vLLM that serves a directory for as long as the block lasts."""
    with served(local, log, options=options) as url:
        base_url = await asyncio.to_thread(url)
        async with Endpoint(local.name, [HttpModel(base_url, local.name)]) as endpoint:
            yield endpoint


def _limited(model: ChatModel | Agent) -> ChatModel | Agent:
    """``model`` with the limit on its answers' length that the command sets, where it is an endpoint without one."""
    if not isinstance(model, Endpoint) or {"max_tokens", "max_completion_tokens"} & model.sampling.keys():
        return model
    return model.using({"max_tokens": evaluating.MAX_TOKENS})


def _agent(thing: ChatModel | Agent, role: Callable[[ChatModel], Agent]) -> Agent:
    """``thing`` if it is an agent, or else ``role`` with the model that it is."""
    return cast(Agent, thing) if hasattr(thing, "respond") else role(thing)
