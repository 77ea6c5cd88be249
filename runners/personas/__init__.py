"""``aloe personas COMMAND``: pools of profiles and personalities, and personas of them. One command a file."""

from __future__ import annotations

from aloe_agents.runners.cli import Commands

COMMANDS = {
    "grow": "Let a pool grow by self-generation and filtering.",
    "import": "Make a pool of other people's files.",
    "review": "Keep, drop or edit a pool's items one by one.",
    "stats": "How large, how new, how diverse a pool is; as a page with a map, too.",
    "split": "Hold out personas that are unlike those for training.",
    "sample": "Draw personas from two pools, balanced.",
}

command = Commands(
    "personas",
    home=__name__,
    about=COMMANDS,
    help="""Pools of profiles and personalities, and personas of them.

    \b
    aloe personas grow profiles --out pools/profiles.jsonl
    aloe personas grow personalities --out pools/personalities.jsonl
    aloe personas split --profiles pools/profiles.jsonl --personalities pools/personalities.jsonl --out data
    aloe personas sample --profiles data/profiles.jsonl --personalities data/personalities.jsonl \\
        --count 3310 --out data/train.jsonl
    """,
)
