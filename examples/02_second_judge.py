"""A second judge with its own prompt, scale and criteria beside the first. Run: python examples/02_second_judge.py"""

import asyncio
import tempfile
from pathlib import Path

from aloe_agents import Call, Completion, Endpoint, Persona, ScriptedModel, simulate
from aloe_agents.roles import Induction, Judge, Preferred, Rejected, RolePlayer

STYLE = """## system
Judge the style. Give {number} from {low} to {high}. Answer with {reply}.
## user
{answer}
## again
Answer with {form} and nothing else.
"""


class Reader:  # stands in for a model: short answers are brisk, and those with an exclamation mark are warm
    name = "reader"

    async def chat(self, call: Call) -> Completion:
        answer = str(call.messages[1]["content"])
        return Completion(text=f"brisk: {max(0, 10 - len(answer) // 40)}\nwarm: {10 if '!' in answer else 5}")


async def main() -> list[dict[str, float | None]]:
    model = Endpoint("scripted", [ScriptedModel()])
    (prompt := Path(tempfile.mkdtemp(), "style.md")).write_text(STYLE)
    style = Judge(Reader(), prompt=str(prompt), name="style", scale=(0, 10), criteria=("brisk", "warm"))
    cast = (RolePlayer(model), Induction(model), Preferred(model), Rejected(model), Judge(model), style)
    run = await simulate(cast, [Persona(id="ada", profile="She has a goat. She sings.", personality="She is shy.")])
    scores = [turn.answers["preferred"].scores for tree in run.trees() for turn in tree.turns]
    print(*scores, sep="\n")
    return scores


if __name__ == "__main__":
    asyncio.run(main())
