"""Simulate many believable users at once, and measure how well models adapt to them.

::

    import aloe_agents as aloe
    from aloe_agents.roles import Induction, Preferred, Rejected, RolePlayer

    async with aloe.Endpoint("local", [aloe.HttpModel("http://127.0.0.1:8000/v1", "some-model")]) as model:
        cast = [RolePlayer(model), Induction(model), Preferred(model), Rejected(model)]
        run = await aloe.simulate(cast, aloe.read_personas("personas.jsonl"), out="runs/one")   # the same call resumes
    run.accounting, run.failures(), run.table()

``examples/01_safety_critic.py`` is a role of your own; ``docs/roles.md`` says what a role may do.

Names are loaded when they are first used: importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aloe_agents.building import Parts, build
    from aloe_agents.config import Config, load_config
    from aloe_agents.engine.agent import Agent, Scene
    from aloe_agents.engine.expansion import Beam, Full, RandomPath
    from aloe_agents.engine.outcome import Outcome
    from aloe_agents.engine.simulation import Simulation
    from aloe_agents.engine.wiring import Expansion
    from aloe_agents.errors import AloeError, CallFailed, ConfigError, Failure, Fatal, Unparsed
    from aloe_agents.evaluation.comparison import Comparison, compare
    from aloe_agents.evaluation.rejudging import Rejudged
    from aloe_agents.evaluation.results import Results, read_results
    from aloe_agents.library import evaluate, grow, rejudge
    from aloe_agents.messages import (
        Answered,
        Chosen,
        Message,
        PersonaRevealed,
        Proposed,
        RoundOpened,
        Scored,
        SketchGiven,
        TurnOpened,
        UserSaid,
    )
    from aloe_agents.model import Call, ChatMessage, ChatModel, Completion, Sampling
    from aloe_agents.models.endpoint import Endpoint, Limits
    from aloe_agents.models.http import HttpModel
    from aloe_agents.models.openai import OpenAIModel
    from aloe_agents.models.scripted.model import ScriptedModel
    from aloe_agents.personas import Exchange, Persona, read_personas, sample_personas, write_personas
    from aloe_agents.pools.embedding import Embedder, EndpointEmbedder, LexicalEmbedder, SentenceEmbedder, VectorStore
    from aloe_agents.pools.growing import Pool
    from aloe_agents.pools.growth import Growth, GrowthPlan
    from aloe_agents.pools.items import Item, read_items, read_pool, write_items
    from aloe_agents.pools.similarity import Novelty
    from aloe_agents.runs.journal import Journal
    from aloe_agents.runs.recorder import Recorder
    from aloe_agents.runs.records import Accounting, FailureRecord, Usage
    from aloe_agents.runs.run import OtherSettings, Run
    from aloe_agents.runs.simulating import simulate
    from aloe_agents.testing import check_replay
    from aloe_agents.training.plan import TrainingPlan, TrainingSummary
    from aloe_agents.training.train import train
    from aloe_agents.tree import Answer, Tree, Turn, read_trees

__version__ = "0.1.0"

_HOME = {
    "training.train": ("train",),
    "evaluation.rejudging": ("Rejudged",),
    "pools.growing": ("Pool",),
    "runs.simulating": ("simulate",),
    "library": (
        "evaluate",
        "grow",
        "rejudge",
    ),
    "building": (
        "Parts",
        "build",
    ),
    "config": (
        "Config",
        "load_config",
    ),
    "engine.agent": (
        "Agent",
        "Scene",
    ),
    "engine.expansion": (
        "Beam",
        "Full",
        "RandomPath",
    ),
    "engine.outcome": ("Outcome",),
    "engine.simulation": ("Simulation",),
    "engine.wiring": ("Expansion",),
    "errors": (
        "AloeError",
        "CallFailed",
        "ConfigError",
        "Failure",
        "Fatal",
        "Unparsed",
    ),
    "evaluation.comparison": (
        "Comparison",
        "compare",
    ),
    "evaluation.results": (
        "Results",
        "read_results",
    ),
    "messages": (
        "Answered",
        "Chosen",
        "Message",
        "PersonaRevealed",
        "Proposed",
        "RoundOpened",
        "Scored",
        "SketchGiven",
        "TurnOpened",
        "UserSaid",
    ),
    "model": (
        "Call",
        "ChatMessage",
        "ChatModel",
        "Completion",
        "Sampling",
    ),
    "models.endpoint": (
        "Endpoint",
        "Limits",
    ),
    "models.http": ("HttpModel",),
    "models.openai": ("OpenAIModel",),
    "models.scripted.model": ("ScriptedModel",),
    "personas": (
        "Exchange",
        "Persona",
        "read_personas",
        "sample_personas",
        "write_personas",
    ),
    "pools.embedding": (
        "Embedder",
        "EndpointEmbedder",
        "LexicalEmbedder",
        "SentenceEmbedder",
        "VectorStore",
    ),
    "pools.growth": (
        "Growth",
        "GrowthPlan",
    ),
    "pools.items": (
        "Item",
        "read_items",
        "read_pool",
        "write_items",
    ),
    "pools.similarity": ("Novelty",),
    "runs.journal": ("Journal",),
    "runs.recorder": ("Recorder",),
    "runs.records": (
        "Accounting",
        "FailureRecord",
        "Usage",
    ),
    "runs.run": (
        "OtherSettings",
        "Run",
    ),
    "testing": ("check_replay",),
    "training.plan": ("TrainingPlan", "TrainingSummary"),
    "tree": (
        "Answer",
        "Tree",
        "Turn",
        "read_trees",
    ),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Accounting",
    "Agent",
    "AloeError",
    "Answer",
    "Answered",
    "Beam",
    "Call",
    "CallFailed",
    "ChatMessage",
    "ChatModel",
    "Chosen",
    "Comparison",
    "Completion",
    "Config",
    "ConfigError",
    "Embedder",
    "Endpoint",
    "EndpointEmbedder",
    "Exchange",
    "Expansion",
    "Failure",
    "FailureRecord",
    "Fatal",
    "Full",
    "Growth",
    "GrowthPlan",
    "HttpModel",
    "Item",
    "Journal",
    "LexicalEmbedder",
    "Limits",
    "Message",
    "Novelty",
    "OpenAIModel",
    "OtherSettings",
    "Outcome",
    "Parts",
    "Persona",
    "PersonaRevealed",
    "Pool",
    "Proposed",
    "RandomPath",
    "Recorder",
    "Rejudged",
    "Results",
    "RoundOpened",
    "Run",
    "Sampling",
    "Scene",
    "Scored",
    "ScriptedModel",
    "SentenceEmbedder",
    "Simulation",
    "SketchGiven",
    "TrainingPlan",
    "TrainingSummary",
    "Tree",
    "Turn",
    "TurnOpened",
    "Unparsed",
    "Usage",
    "UserSaid",
    "VectorStore",
    "build",
    "check_replay",
    "compare",
    "evaluate",
    "grow",
    "load_config",
    "read_items",
    "read_personas",
    "read_pool",
    "read_results",
    "read_trees",
    "rejudge",
    "sample_personas",
    "simulate",
    "train",
    "write_items",
    "write_personas",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(import_module(f"aloe_agents.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'aloe_agents' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
