"""What a run's answers depend on, read off the live cast: two runs with equal settings are one run.

URLs, keys, limits and prices do not count: they may change between a run and its resumption. What counts of a role is
its class, with the source of a class that is not built in; its model's name and sampling; its prompts; and its other
public attributes, with the contents of a file that one of them names.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from aloe_agents.engine.agent import Agent
from aloe_agents.engine.wiring import Expansion
from aloe_agents.models.endpoint import Endpoint
from aloe_agents.personas import Persona, personas_digest
from aloe_agents.prompts import Prompt

PLAIN = (str, int, float, bool, bytes, type(None))
BUILT_IN = "aloe_agents."


def settings_of(
    cast: Sequence[Agent], expansion: Expansion, personas: Sequence[Persona], *, turns: int, seed: int
) -> dict[str, str]:
    """What the answers of a simulation depend on, by name."""
    found = {
        "seed": str(seed),
        "turns": str(turns),
        "expansion": _expansion(expansion),
        "personas": f"{len(personas)} (digest {personas_digest(personas)[:12]})",
    }
    return found | cast_settings(cast)


def cast_settings(cast: Iterable[Agent]) -> dict[str, str]:
    """What the answers of a cast depend on, by name; :func:`agent_settings` of each with its name."""
    return {f"{what} of {agent.name}": value for agent in cast for what, value in agent_settings(agent).items()}


def agent_settings(agent: Agent) -> dict[str, str]:
    """What an agent's answers depend on: ``class``, ``model``, ``sampling``, ``prompt`` and ``options``."""
    held = _attributes(agent)
    models = [value for value in held.values() if _is_model(value)]
    prompts = [value for value in held.values() if isinstance(value, Prompt)]
    options = [f"{name} = {_described(value)}" for name, value in sorted(held.items()) if _is_option(name, value)]
    return {
        "class": _class_of(type(agent)),
        "model": ", ".join(str(getattr(model, "name", "")) for model in models) or "none",
        "sampling": ", ".join(repr(sorted(getattr(model, "sampling", {}).items())) for model in models) or "none",
        "prompt": ", ".join(map(_prompt_digest, prompts)) or "its own",
        "options": ", ".join(options) or "none",
    }


def _is_option(name: str, value: object) -> bool:
    """Whether an attribute is one of its options: public, or an agent inside of the agent."""
    if name == "name" or _is_model(value) or isinstance(value, Prompt):
        return False
    return not name.startswith("_") or _is_agent(value)


def _prompt_digest(prompt: Prompt) -> str:
    return _digest(repr(sorted(prompt.sections.items())))


def endpoints_of(cast: Iterable[object]) -> dict[str, Endpoint]:
    """The endpoints that the members of a cast ask, by name; those of agents inside agents too."""
    found: dict[str, Endpoint] = {}
    for member in cast:
        for endpoint in _endpoints(member, 0):
            found.setdefault(endpoint.label, endpoint)
    return found


def _endpoints(value: object, depth: int) -> Iterator[Endpoint]:
    if isinstance(value, Endpoint):
        yield value
    elif isinstance(inner := getattr(value, "endpoint", None), Endpoint):  # an endpoint with other sampling
        yield inner
    elif depth < 4 and not isinstance(value, PLAIN):
        inside: Iterable[object] = value if isinstance(value, list | tuple) else _attributes(value).values()
        for part in inside:
            yield from _endpoints(part, depth + 1)


def _attributes(thing: object) -> Mapping[str, object]:
    return getattr(thing, "__dict__", {})


def _is_model(value: object) -> bool:
    return hasattr(value, "chat") and hasattr(value, "name")


def _is_agent(value: object) -> bool:
    return hasattr(value, "respond") and hasattr(value, "hears")


def _class_of(kind: type) -> str:
    if f"{kind.__module__}.".startswith(BUILT_IN):
        return "built in"
    try:
        source = f" (source {_digest(inspect.getsource(kind))})"
    except (OSError, TypeError):  # defined at a prompt
        source = ""
    return f"{kind.__module__}:{kind.__qualname__}{source}"


def _described(value: object) -> str:
    if isinstance(value, Path) or (isinstance(value, str) and re.fullmatch(r"[^\n]{1,500}[./][^\n]{1,500}", value)):
        return f"{str(value)!r}{_contents(Path(value))}"
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_described(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_described, value)) + "]"
    if isinstance(value, Prompt):
        return f"prompt {_prompt_digest(value)}"
    if _is_agent(value):
        return repr(agent_settings(value))  # type: ignore[arg-type]  # it has what an agent has
    return value.__qualname__ if isinstance(value, type) else type(value).__qualname__


def _contents(path: Path) -> str:
    """A mark of what a file holds, so that one that was changed is another setting; nothing for what is no file."""
    try:
        return f" (digest {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})" if path.is_file() else ""
    except (OSError, ValueError):
        return ""


def _expansion(expansion: Expansion) -> str:
    kind = type(expansion)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
    if not f"{kind.__module__}.".startswith(BUILT_IN):
        name = _class_of(kind)
    shape = [
        f" of {what} {value}" for what in ("depth", "width") if (value := getattr(expansion, what, None)) is not None
    ]
    labels = "" if expansion.labels == ("preferred", "rejected") else f" over {', '.join(expansion.labels)}"
    return name + "".join(shape) + labels


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
