"""The notebook runs from top to bottom in a real kernel, shows what its text promises, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
import pytest_asyncio
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
KERNEL = {
    "argv": [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "The Python of the tests",
    "language": "python",
}


def read_notebook() -> nbformat.NotebookNode:
    """The notebook as it is kept. Raises ValidationError where it is not one."""
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    return notebook


class Executed:
    """What the cells of the notebook put out, by the cell's id."""

    def __init__(self, notebook: nbformat.NotebookNode) -> None:
        self._outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    def printed(self, cell: str) -> str:
        return "".join(output.text for output in self._outputs[cell] if output.output_type == "stream")

    def shown(self, cell: str, kind: str) -> str:
        """What the cell displays as this media type."""
        (found,) = (output.data[kind] for output in self._outputs[cell] if kind in output.get("data", {}))
        return str(found)

    @property
    def complaints(self) -> list[str]:
        """Everything that went to standard error, warnings included."""
        found = (output for outputs in self._outputs.values() for output in outputs)
        return [output.text for output in found if output.output_type == "stream" and output.name == "stderr"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Executed]:
    """The notebook, executed by this interpreter in an empty directory."""
    place = tmp_path_factory.mktemp("notebook")
    (spec := place / "kernels" / "tests").mkdir(parents=True)
    (home := place / "home").mkdir()
    (temporary := place / "temporary").mkdir()
    env = {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "IPYTHONDIR": str(place / "ipython")}
    (spec / "kernel.json").write_text(json.dumps({**KERNEL, "env": env}))
    pids: set[int] = set()
    with TemporaryDirectory() as sockets:  # a path of pytest's may be too long for a socket
        kernel = AsyncKernelManager(
            kernel_name="tests",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(place / "kernels")]),
            transport="ipc",
            ip=f"{sockets}/kernel",
            connection_file=f"{sockets}/kernel.json",
        )
        client = NotebookClient(
            read_notebook(),
            km=kernel,
            timeout=60,
            resources={"metadata": {"path": str(home)}},
            on_cell_start=lambda **_: pids.add(getattr(kernel.provisioner, "pid", 0)),
        )
        notebook = await client.async_execute(cleanup_kc=True)
    (pid,) = pids
    yield Executed(notebook)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not list(home.iterdir()) and not list(temporary.iterdir())


def test_no_cell_complains(executed: Executed) -> None:
    assert executed.complaints == []


def test_the_same_cell_resumes_and_asks_nothing_again(executed: Executed) -> None:
    calls = 24 * 10 * 6  # the paper's four, and a judge of both answers
    assert executed.printed("record") == f"{calls} calls made now, {calls} recorded\n"
    assert executed.printed("resume") == f"0 calls made now, {calls} recorded\n"


def test_the_table_has_a_row_for_every_answer(executed: Executed) -> None:
    assert executed.printed("table") == f"({24 * 10 * 2}, 12)\n"
    assert executed.shown("table", "text/html").count("<tr") == 1 + 6


def test_the_scores_are_plotted(executed: Executed) -> None:
    assert len(executed.shown("scores", "image/png")) > 10_000


def test_ten_dialogues_are_worst_and_the_worst_is_read(executed: Executed) -> None:
    rows = executed.shown("worst", "text/plain").splitlines()[2:]
    means = [float(row.split()[1]) for row in rows]
    assert len({row.split()[0] for row in rows}) == 10 and means == sorted(means)
    read = executed.printed("read")
    assert all(f"\nTurn {turn}\n   User: " in read for turn in range(1, 11))
    for part in ("Revealed profile", "Revealed personality", "preferred (", "rejected ("):
        assert read.count(f" {part}") == 10, part
    assert read.count("\n-> ") == 10


def test_everything_is_accounted_for(executed: Executed) -> None:
    assert executed.printed("accounting") == "24 requested: 24 completed, 0 pending\nfailures: ()\n"
    roles = [row.split()[0] for row in executed.shown("accounting", "text/plain").splitlines()[1:]]
    assert roles == ["induction", "judge", "preferred", "rejected", "role_player"]


def test_a_mistake_in_a_role_is_told_in_its_own_words(executed: Executed) -> None:
    assert executed.printed("failures").startswith(
        "3 role-error: TypeError: 'str' object is not callable (agent role_player, turn 1 of p00001"
    )


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = read_notebook()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
