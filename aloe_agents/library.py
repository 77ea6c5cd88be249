"""The verbs: everything that the commands do, from Python.

::

    run     = await aloe.simulate(cast, personas, out="runs/one", turns=10, seed=7)
    results = await aloe.evaluate(model, judge=judge, user=user)
    pool    = await aloe.grow("profiles", generator, out="pools/profiles.jsonl")
    again   = await aloe.rejudge("runs/one", judge)

Each returns a value, raises the project's errors, prints nothing and installs no signal handler. Each works under
``asyncio.run``, in a running loop (a notebook) and in a thread. With ``out`` everything is recorded there, and the same
call resumes. ``on_open`` is called with the :class:`~aloe_agents.runs.run.Run` once it is open, for whoever wants to
stop it or to watch its progress.
"""

from __future__ import annotations

from aloe_agents.runs.simulating import simulate

__all__ = ["simulate"]
