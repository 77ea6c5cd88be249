"""The generator: proposes new members of a pool from a few examples (paper, section 2.1 and B.1), and expands a persona
in one sentence to a full profile.
"""

from __future__ import annotations

from aloe_agents import prompts
from aloe_agents.engine.agent import Scene
from aloe_agents.errors import Unparsed
from aloe_agents.messages import Proposed, RoundOpened, SketchGiven
from aloe_agents.model import ChatMessage, ChatModel
from aloe_agents.pools.proposals import KINDS, split
from aloe_agents.prompts import Prompt


class Generator:
    """Asks for ``wanted`` items in one answer and cuts it into items. It asks again if the answer is no list.

    ``prompt`` replaces the prompts of both kinds (``profiles``, ``personalities``), ``expand`` the one for sketches.
    ``attempts`` is how many answers are tried before the round fails.
    """

    name = "generator"
    hears = (RoundOpened, SketchGiven)

    def __init__(self, model: ChatModel, prompt: str | None = None, expand: str = "expand", attempts: int = 3) -> None:
        self.model = model
        needed = {"system", "user", "again"}
        self.prompts: dict[str, Prompt] = {
            of: prompts.load(prompt or of, {"count", "examples"}, needed) for of in KINDS
        }
        self.expand = prompts.load(expand, {"sketch"}, needed)
        self.attempts = attempts

    async def respond(self, heard: RoundOpened | SketchGiven, scene: Scene) -> Proposed:
        """Propose items for a round, or one full profile for a sketch. Raises Unparsed if no answer was a list."""
        if isinstance(heard, SketchGiven):
            return await self._ask(heard, scene, self.expand, 1, {"sketch": heard.text})
        fields = {"count": str(heard.wanted), "examples": "\n".join(heard.examples)}
        return await self._ask(heard, scene, self.prompts[heard.of], heard.wanted, fields)

    async def _ask(
        self, heard: RoundOpened | SketchGiven, scene: Scene, prompt: Prompt, wanted: int, fields: dict[str, str]
    ) -> Proposed:
        messages: list[ChatMessage] = [prompt.fill("system", **fields), prompt.fill("user", **fields)]
        for _ in range(self.attempts):
            answer = await scene.ask(self.model, messages)
            if isinstance(heard, SketchGiven):
                return Proposed(items=(" ".join(answer.text.split()),))
            if items := split(answer.text, wanted):
                cut_off = answer.finish_reason == "length" and len(items) > 1
                return Proposed(items=tuple(items[:-1] if cut_off else items))
            again = prompt.fill("again", **fields)
            messages = [*messages[:2], {"role": "assistant", "content": answer.text}, again]
        raise Unparsed(f"no list of {wanted} items in {self.attempts} answers; the last was {answer.text!r}")
