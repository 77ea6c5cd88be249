"""A role made from a prompt file alone: it speaks as the user, or answers the user, without any Python of yours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from aloe_agents import prompts
from aloe_agents.engine.agent import Scene
from aloe_agents.errors import ConfigError
from aloe_agents.messages import Answered, Message, TurnOpened, UserSaid
from aloe_agents.model import ChatMessage, ChatModel

FIELDS = {"profile", "personality", "label", "message"}


class Speaker:
    """Says what a model answers to ``prompt``.

    ``says="Answered"``: hears the user's message and answers under each of ``labels`` (default: its own name), one call
    for each, after the dialogue so far. Its prompt needs ``## system`` or ``## user``; the latter replaces the user's
    message and may hold ``{message}``.

    ``says="UserSaid"``: hears that a turn is open and speaks as the user. Its messages are the assistant's in the prompt.
    It needs ``## user``, which opens the dialogue.

    The fields are ``{profile}``, ``{personality}``, ``{label}`` and ``{message}`` (empty for a user).
    """

    def __init__(
        self,
        model: ChatModel,
        prompt: str,
        name: str = "speaker",
        says: Literal["Answered", "UserSaid"] = "Answered",
        labels: Sequence[str] = (),
    ) -> None:
        if says not in ("Answered", "UserSaid"):
            raise ConfigError(f"a speaker says 'Answered' or 'UserSaid', not {says!r}")
        if says == "UserSaid" and labels:
            raise ConfigError("a speaker that says UserSaid has no labels")
        self.model, self.name = model, name
        self.labels = tuple(labels) or (name,)
        self.prompt = prompts.load(prompt, FIELDS, {"user"} if says == "UserSaid" else ())
        if not {"system", "user"} & self.prompt.sections.keys():
            raise ConfigError(f"prompt {prompt}: a speaker needs a section '## system' or '## user'")
        self.hears: tuple[type[Message], ...] = (TurnOpened,) if says == "UserSaid" else (UserSaid,)
        self.says: tuple[type[Message] | tuple[type[Message], str], ...] = (
            (UserSaid,) if says == "UserSaid" else tuple((Answered, label) for label in self.labels)
        )

    async def respond(self, heard: TurnOpened | UserSaid, scene: Scene) -> Sequence[Message]:
        """One message as the user, or an answer under every label."""
        if isinstance(heard, TurnOpened):
            return [await self._speak(scene)]
        return await asyncio.gather(*(self._answer(heard, label, scene) for label in self.labels))

    async def _speak(self, scene: Scene) -> UserSaid:
        messages = [self._filled(section, scene) for section in ("system", "user") if section in self.prompt]
        for past in scene.history:
            messages.append({"role": "assistant", "content": past.user})
            messages.append({"role": "user", "content": past.answer})
        return UserSaid(text=(await scene.ask(self.model, messages)).text.strip())

    async def _answer(self, heard: UserSaid, label: str, scene: Scene) -> Answered:
        system = [self._filled("system", scene, label)] if "system" in self.prompt else []
        last: ChatMessage = {"role": "user", "content": heard.text}
        if "user" in self.prompt:
            last = self._filled("user", scene, label, heard.text)
        answer = await scene.ask(self.model, [*system, *scene.dialogue, last])
        return Answered(label=label, text=answer.text.strip(), finish_reason=answer.finish_reason)

    def _filled(self, section: str, scene: Scene, label: str = "", message: str = "") -> ChatMessage:
        persona = scene.persona
        fields = {"profile": persona.profile, "personality": persona.personality, "label": label, "message": message}
        return self.prompt.fill(section, **fields)
