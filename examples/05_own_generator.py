"""Your own generator lets a pool grow: old people only. Run: python examples/05_own_generator.py"""

import asyncio

from aloe_agents import Growth, GrowthPlan, Item, LexicalEmbedder, Novelty, Proposed, RoundOpened, Scene, ScriptedModel
from aloe_agents.roles import Generator

SEEDS = (
    "She is an 81-year-old retired diver. She keeps bees. She lives in Oslo. She plays chess. She has a cat.",
    "He is a 77-year-old baker. He sings in a choir. He has nine grandchildren. He grows leeks. He reads maps.",
)


class OfOldPeople:
    """Wraps the built-in generator, and passes on only people over seventy."""

    name, hears = "generator", (RoundOpened,)

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    async def respond(self, heard: RoundOpened, scene: Scene) -> Proposed:
        proposed = await self.generator.respond(heard, scene)
        old = [item for item in proposed.items if any(word[:2] > "70" for word in item.split() if word[:2].isdigit())]
        return Proposed(items=tuple(old))


async def main() -> list[str]:
    base = [Item(id=f"{n:05d}", text=text, source="seed") for n, text in enumerate(SEEDS, 1)]
    plan = GrowthPlan(of="profiles", target=30, seed=7)
    growth = Growth(OfOldPeople(Generator(ScriptedModel())), base, plan, LexicalEmbedder().embed, Novelty())
    grown = await growth.run()
    print(f"{len(grown.items)} profiles after {len(grown.rounds)} rounds: {grown.ended}")
    print(*(f"  {item.text[:90]}..." for item in grown.items[-3:]), sep="\n")
    return [item.text for item in grown.items]


if __name__ == "__main__":
    asyncio.run(main())
