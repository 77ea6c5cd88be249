"""``aloe personas COMMAND``: pools of profiles and personalities, and the personas drawn from them."""

from __future__ import annotations

from aloe_agents.runners.cli import Commands

COMMANDS = {
    "grow": "Let a pool grow by self-generation and filtering.",
    "import": "Turn other people's files into a pool.",
    "review": "Keep, drop or edit a pool's items one by one.",
    "stats": "Print how large, new and diverse a pool is, or write a page with a map.",
    "split": "Hold out personas for evaluation, unlike those for training.",
    "sample": "Draw personas from two pools, balanced.",
}

command = Commands(
    "personas",
    home=__name__,
    about=COMMANDS,
    help="""Pools of profiles and personalities, and the personas drawn from them.

    \b
    aloe personas grow profiles --out pools/profiles.jsonl
    aloe personas grow personalities --out pools/personalities.jsonl
    aloe personas split --profiles pools/profiles.jsonl --personalities pools/personalities.jsonl --out data
    aloe personas sample --profiles data/profiles.jsonl --personalities data/personalities.jsonl \\
        --count 3310 --out data/train.jsonl
    """,
)
