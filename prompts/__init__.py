"""The prompts, as text files with named fields.

A prompt file holds sections headed ``## system``, ``## user`` or ``## again`` (said when an answer cannot be
read). ``{name}`` in a section is a field. Filling is one pass over the template: what is put in is data and is
never looked at again, so braces, template marks and markup in a persona come through untouched. A field that a
role does not offer is refused when the prompt is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from aloe_agents.errors import ConfigError
from aloe_agents.model import ChatMessage

_HEADING = re.compile(r"^## (\w+)[ \t]*$", re.MULTILINE)
_FIELD = re.compile(r"\{([a-z_]+)\}")
_SECTIONS = ("system", "user", "again")


@dataclass(frozen=True)
class Prompt:
    """A prompt's sections, by name, and where they came from."""

    source: str
    sections: dict[str, str]

    def __contains__(self, section: str) -> bool:
        return section in self.sections

    def fill(self, section: str, **fields: str) -> ChatMessage:
        """The message of ``section`` with its fields filled; ``again`` is said by the user."""
        text = _FIELD.sub(lambda field: fields[field[1]], self.sections[section])
        return {"role": "system" if section == "system" else "user", "content": text}


def read(name_or_path: str | Path) -> str:
    """The text of the built-in prompt of that name, or of the prompt file at that path.

    Raises ConfigError where it cannot be read.
    """
    try:
        if isinstance(name_or_path, str) and name_or_path.isidentifier():
            return (files(__name__) / f"{name_or_path}.md").read_text(encoding="utf-8")
        return Path(name_or_path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt {name_or_path} cannot be read: {error}") from None


def load(name_or_path: str | Path, fields: Collection[str] = (), sections: Collection[str] = ()) -> Prompt:
    """The built-in prompt of that name, or the prompt in that file.

    ``fields`` are those that the role can fill, ``sections`` those that it needs.
    Raises ConfigError where the file cannot be read, a section is missing or twice there, or a field is unknown.
    """
    return parse(read(name_or_path), str(name_or_path), fields, sections)


def parse(text: str, source: str, fields: Collection[str] = (), sections: Collection[str] = ()) -> Prompt:
    """The prompt written in ``text``; ``source`` names it in errors, which are those of :func:`load`."""
    pieces = _HEADING.split(text)[1:]
    found = {name: body.strip() for name, body in zip(pieces[::2], pieces[1::2], strict=True)}
    if unknown := [name for name in found if name not in _SECTIONS]:
        raise ConfigError(f"prompt {source}: unknown section '## {unknown[0]}' (there are {', '.join(_SECTIONS)})")
    if repeated := [name for name in found if pieces[::2].count(name) > 1]:
        raise ConfigError(f"prompt {source}: the section '## {repeated[0]}' occurs twice")
    if missing := [name for name in _SECTIONS if name in sections and name not in found]:
        raise ConfigError(f"prompt {source}: the section '## {missing[0]}' is missing")
    for name, body in found.items():
        _check_fields(name, body, source, fields)
    return Prompt(source, found)


def _check_fields(name: str, body: str, source: str, fields: Collection[str]) -> None:
    """Raise ConfigError for a field of a section that its role does not fill."""
    for field in _FIELD.findall(body):
        if field not in fields:
            offered = ", ".join(f"{{{known}}}" for known in sorted(fields)) or "none"
            raise ConfigError(f"prompt {source}, ## {name}: unknown field {{{field}}}; this role fills {offered}")
