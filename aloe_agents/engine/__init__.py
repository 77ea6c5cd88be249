"""Who hears what, and what follows: the part that one reads in an hour. It knows no model, no disk and no terminal.

::

    personas ──> Simulation ──> Bus <──> agents      a message is stored in its Conversation, shown to observers,
                  (places)       │        (Scene)    and delivered to every agent that hears its kind
                                 └──> observers

- ``agent``: the protocol of an agent, and the scene that it sees.
- ``conversation``: a single-assignment store of messages; reading waits, and a deadlock is found.
- ``bus``: deliveries, one task each; failures stay where they happen.
- ``expansion``: which answers go on (random path, full, beam).
- ``wiring``: whether a cast fits together, before anything is paid; ``urgency``: which call comes first.
- ``simulation``: personas in, trees out, so many at once; ``outcome``: what became of a conversation.
"""

__all__ = [
    "agent",
    "bus",
    "conversation",
    "expansion",
    "outcome",
    "simulation",
    "urgency",
    "wiring",
]
