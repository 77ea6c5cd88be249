"""Which tests a run leaves out: the slow ones unless asked for, and the families of models unless ALOE_FAMILIES is set.

A run that names marks (``-m``) or single tests (``FILE::TEST``) has asked. ``.ci/run`` runs all of them.
"""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("ALOE_FAMILIES"):
        spared = pytest.mark.skip(reason="one family is enough here; ALOE_FAMILIES=1 runs all")
        for item in items:
            if "families" in item.keywords:
                item.add_marker(spared)
    if not config.option.markexpr and not any("::" in argument for argument in config.args):
        slow = [item for item in items if "slow" in item.keywords]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if "slow" not in item.keywords]
