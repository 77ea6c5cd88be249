"""What is built holds every role, prompt and command, and nothing at its top level but the package."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source archive, and wheel made from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def shipped() -> set[str]:
    folders = {"roles": "*.py", "prompts": "*.*", "runners": "*.py"}
    files = {path for folder, pattern in folders.items() for path in (ROOT / folder).glob(pattern)}
    return {path.relative_to(ROOT).as_posix() for path in files if path.is_file()}


def test_the_wheel_holds_every_folder_inside_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"aloe_agents/{name}" for name in shipped()} <= set(names)
    assert {"aloe_agents/py.typed", "aloe_agents/pools/profiles.txt", "aloe_agents/engine/bus.py"} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"aloe_agents"}
    assert len(names) == len(set(names))


def test_the_source_archive_has_the_real_layout(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    assert shipped() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", ".ci/hatch_build.py"} <= names


def test_the_links_are_links() -> None:
    for folder in ("roles", "prompts", "runners"):
        link = ROOT / "aloe_agents" / folder
        assert link.is_symlink(), f"{link} is no link: git clone -c core.symlinks=true"
        assert link.resolve() == ROOT / folder
