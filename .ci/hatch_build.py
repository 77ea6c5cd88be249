"""Ship roles/, prompts/ and runners/ inside the package, whether or not git made the links."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":  # an editable install reaches them through the links
            for name in ("roles", "prompts", "runners"):
                build_data["force_include"][name] = f"aloe_agents/{name}"
