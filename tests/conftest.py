"""Which tests a run is spared: the families of models, half a minute each, unless ALOE_FAMILIES is set (as CI does)."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("ALOE_FAMILIES"):
        spared = pytest.mark.skip(reason="one family is enough here; ALOE_FAMILIES=1 runs all")
        for item in items:
            if "families" in item.keywords:
                item.add_marker(spared)
