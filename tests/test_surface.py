"""The public names: sorted, all there, and the same for a type checker as at run time."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import aloe_agents
from aloe_agents import prompts, roles

SOURCE = ast.parse(Path(aloe_agents.__file__).read_text())


def for_type_checkers() -> dict[str, str]:
    """Name -> module of the imports under TYPE_CHECKING."""
    (block,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    assert isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    return {alias.name: str(node.module) for node in imports for alias in node.names if alias.asname is None}


def test_the_names_are_sorted_and_each_there_once() -> None:
    assert aloe_agents.__all__ == sorted(set(aloe_agents.__all__))


def test_a_type_checker_sees_the_same_names() -> None:
    assert sorted(for_type_checkers()) == aloe_agents.__all__


@pytest.mark.parametrize("name", aloe_agents.__all__)
def test_every_name_is_what_a_type_checker_takes_it_for(name: str) -> None:
    home = import_module(for_type_checkers()[name])
    thing = getattr(aloe_agents, name)
    assert thing is getattr(home, name)
    assert thing.__module__ == home.__name__, "a name is exported from where it is defined"
    assert thing.__doc__, "a public name says what it is"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'aloe_agents' has no attribute 'Simulaton'"):
        aloe_agents.Simulaton  # noqa: B018
    assert not hasattr(aloe_agents, "_private")


def test_the_roles_of_the_design_are_importable_by_name() -> None:
    assert roles.__all__ == sorted(roles.__all__)
    assert set(roles.__all__) >= {"Generator", "Induction", "Judge", "Preferred", "Rejected", "RolePlayer"}
    for name in roles.__all__:
        assert getattr(roles, name).__name__ == name
    for name in ("role_player", "induction", "preferred", "judge", "profiles", "personalities", "expand"):
        assert prompts.read(name).count("\n## ") >= 1


def test_everything_can_be_imported_at_once() -> None:
    code = "from aloe_agents import *; print(Simulation.__name__, Persona.__name__, read_trees.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Simulation", "Persona", "read_trees"]


def test_the_package_is_typed() -> None:
    assert (Path(aloe_agents.__file__).parent / "py.typed").is_file()


def test_every_public_name_is_in_the_api_reference() -> None:
    pages = (Path(__file__).parents[1] / "docs" / "api").glob("*.md")
    named = {
        line.rsplit(".", 1)[1] for page in pages for line in page.read_text().splitlines() if line.startswith("::: ")
    }
    assert set(aloe_agents.__all__) <= named
