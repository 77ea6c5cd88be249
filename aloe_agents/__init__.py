"""Simulate many believable users at once.

Agents talk over a message bus, and the bus expands conversation trees concurrently. A role of your own::

    class SafetyCritic:
        name = "safety"
        hears = (Answered,)

        def __init__(self, model: ChatModel) -> None:
            self.model = model

        async def respond(self, heard: Answered, scene: Scene) -> Flagged | None:
            verdict = await scene.ask(self.model, [{"role": "user", "content": f"Is this unsafe? {heard.text}"}])
            return Flagged.after(heard, verdict=verdict.text)

Names are loaded when they are first used: importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aloe_agents.agent import Agent, Scene
    from aloe_agents.embedding import Embedder, EndpointEmbedder, LexicalEmbedder, SentenceEmbedder, VectorStore
    from aloe_agents.endpoint import Endpoint, Limits
    from aloe_agents.errors import AloeError, ConfigError, Failure, Fatal
    from aloe_agents.expansion import Beam, Full, RandomPath
    from aloe_agents.growth import Growth, Plan
    from aloe_agents.http_model import HttpModel
    from aloe_agents.journal import Journal
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
    from aloe_agents.openai_model import OpenAIModel
    from aloe_agents.personas import Persona, read_personas, sample_personas, write_personas
    from aloe_agents.pools import Item, read_items, read_pool, write_items
    from aloe_agents.recorder import Recorder
    from aloe_agents.scripted import ScriptedModel
    from aloe_agents.similarity import Novelty
    from aloe_agents.simulation import Outcome, Simulation
    from aloe_agents.tree import Tree, read_trees

__version__ = "0.1.0"

_HOME = {
    "agent": ("Agent", "Scene"),
    "embedding": ("Embedder", "EndpointEmbedder", "LexicalEmbedder", "SentenceEmbedder", "VectorStore"),
    "endpoint": ("Endpoint", "Limits"),
    "errors": ("AloeError", "ConfigError", "Failure", "Fatal"),
    "expansion": ("Beam", "Full", "RandomPath"),
    "growth": ("Growth", "Plan"),
    "http_model": ("HttpModel",),
    "journal": ("Journal",),
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
    "openai_model": ("OpenAIModel",),
    "personas": ("Persona", "read_personas", "sample_personas", "write_personas"),
    "pools": ("Item", "read_items", "read_pool", "write_items"),
    "recorder": ("Recorder",),
    "scripted": ("ScriptedModel",),
    "similarity": ("Novelty",),
    "simulation": ("Outcome", "Simulation"),
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
    "Plan",
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
