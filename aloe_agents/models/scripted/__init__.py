"""The scripted stand-in: people made by rule, who tell facts of their profile, and assistants who take them up or do not.

- ``model``: answers every built-in prompt, from its words alone; ``pools``: proposes profiles and personalities.
- ``server``: the same as an OpenAI-compatible server; ``small_world``: people of a small vocabulary, for the closed loop.
"""

__all__ = [
    "model",
    "pools",
    "server",
    "small_world",
]
