"""Simulate many believable users at once.

Agents talk over a message bus, and the bus expands conversation trees concurrently. A role of your own::

    class SafetyCritic:
        name = "safety"
        hears = (Answered,)

        def __init__(self, model: ChatModel) -> None:
            self.model = model

        async def respond(self, heard: Answered, scene: Scene) -> Flagged | None:
            verdict = await scene.ask(self.model, [{"role": "user", "content": f"Is this unsafe? {heard.text}"}])
            return Flagged(verdict=verdict.text)

Names are loaded when they are first used: importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aloe_agents.engine.agent import Agent, Scene
    from aloe_agents.engine.expansion import Beam, Full, RandomPath
    from aloe_agents.engine.outcome import Outcome
    from aloe_agents.engine.simulation import Simulation
    from aloe_agents.errors import AloeError, ConfigError, Failure, Fatal
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
    from aloe_agents.model import Call, ChatMessage, ChatModel, Completion
    from aloe_agents.models.endpoint import Endpoint, Limits
    from aloe_agents.models.http import HttpModel
    from aloe_agents.models.openai import OpenAIModel
    from aloe_agents.models.scripted.model import ScriptedModel
    from aloe_agents.personas import Persona, read_personas, sample_personas, write_personas
    from aloe_agents.pools.embedding import Embedder, EndpointEmbedder, LexicalEmbedder, SentenceEmbedder, VectorStore
    from aloe_agents.pools.growth import Growth, GrowthPlan
    from aloe_agents.pools.items import Item, read_items, read_pool, write_items
    from aloe_agents.pools.similarity import Novelty
    from aloe_agents.runs.journal import Journal
    from aloe_agents.runs.recorder import Recorder
    from aloe_agents.tree import Tree, read_trees

__version__ = "0.1.0"

_HOME = {
    "engine.agent": ("Agent", "Scene"),
    "pools.embedding": ("Embedder", "EndpointEmbedder", "LexicalEmbedder", "SentenceEmbedder", "VectorStore"),
    "models.endpoint": ("Endpoint", "Limits"),
    "errors": ("AloeError", "ConfigError", "Failure", "Fatal"),
    "engine.expansion": ("Beam", "Full", "RandomPath"),
    "pools.growth": ("Growth", "GrowthPlan"),
    "models.http": ("HttpModel",),
    "runs.journal": ("Journal",),
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
    "model": ("Call", "ChatMessage", "ChatModel", "Completion"),
    "models.openai": ("OpenAIModel",),
    "personas": ("Persona", "read_personas", "sample_personas", "write_personas"),
    "pools.items": ("Item", "read_items", "read_pool", "write_items"),
    "runs.recorder": ("Recorder",),
    "models.scripted.model": ("ScriptedModel",),
    "pools.similarity": ("Novelty",),
    "engine.outcome": ("Outcome",),
    "engine.simulation": ("Simulation",),
    "tree": ("Tree", "read_trees"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Agent",
    "AloeError",
    "Answered",
    "Beam",
    "Call",
    "ChatMessage",
    "ChatModel",
    "Chosen",
    "Completion",
    "ConfigError",
    "Embedder",
    "Endpoint",
    "EndpointEmbedder",
    "Failure",
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
    "Outcome",
    "Persona",
    "PersonaRevealed",
    "Proposed",
    "RandomPath",
    "Recorder",
    "RoundOpened",
    "Scene",
    "Scored",
    "ScriptedModel",
    "SentenceEmbedder",
    "Simulation",
    "SketchGiven",
    "Tree",
    "TurnOpened",
    "UserSaid",
    "VectorStore",
    "read_items",
    "read_personas",
    "read_pool",
    "read_trees",
    "sample_personas",
    "write_items",
    "write_personas",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(import_module(f"aloe_agents.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'aloe_agents' has no attribute {name!r}")
