"""Calls and where they go: limits and retries around a server, a local model, or the scripted stand-in.

::

    scene.ask ──> Endpoint ──> replica ──> server
                  slots, pace,  HttpModel, OpenAIModel,
                  pause, retry  ScriptedModel, your own

- ``endpoint``: one call's way, with its retries; ``limits``: slots, pace, pause, breaker; ``adaptive``: capacity, measured.
- ``http``, ``openai``: the two clients; ``answers``: what a server's answer means.
- ``serving``: vLLM on a local directory; ``guard``: the process that watches over it.
- ``scripted``: the stand-in that needs no model, in process or as a server.
"""

__all__ = [
    "adaptive",
    "answers",
    "endpoint",
    "guard",
    "http",
    "limits",
    "openai",
    "scripted",
    "serving",
]
