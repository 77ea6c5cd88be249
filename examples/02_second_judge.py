"""A second judge with another prompt beside the first. Run: python examples/02_second_judge.py"""

import asyncio
import tempfile
from pathlib import Path

from aloe_agents import Endpoint, Persona, RandomPath, ScriptedModel, Simulation
from aloe_agents.roles import Induction, Judge, Preferred, Rejected, RolePlayer

STYLE = """## system
Judge only whether the style of the answer suits this person, 1 to 5. Answer with the digit alone.
<profile>(not shown to you)</profile>
<personality>{personality}</personality>
## user
<answer>{answer}</answer>
## again
One digit from 1 to 5, nothing else.
"""


async def main() -> list[tuple[float | None, float | None]]:
    model = Endpoint("scripted", [ScriptedModel()])
    with tempfile.TemporaryDirectory() as folder:
        (prompt := Path(folder, "style.md")).write_text(STYLE)
        style = Judge(model, prompt=str(prompt), name="style")
    cast = (RolePlayer(model), Induction(model), Preferred(model), Rejected(model), Judge(model), style)
    user = Persona(
        id="ada", profile="She is a nurse. She has a goat. She sings.", personality="She is witty. She is shy."
    )
    tree = await anext(Simulation(cast, RandomPath(), turns=4).trees([user]))
    scores = [turn.answers["preferred"].scores for turn in tree.turns]
    for turn, score in enumerate(scores, 1):
        print(f"turn {turn}: judge {score['judge']}, style {score['style']}")
    return [(score["judge"], score["style"]) for score in scores]


if __name__ == "__main__":
    asyncio.run(main())
