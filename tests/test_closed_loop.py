"""The closed loop in small: simulate, train from nothing, serve, evaluate. What it must show, and that it may fail to."""

from __future__ import annotations

import importlib.util
import os
import runpy
import signal
import subprocess
import time
from pathlib import Path

import pytest

from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.comparison import Comparison, ComparisonRow
from aloe_agents.evaluation.metrics import measure
from aloe_agents.models.scripted.small_world import people
from aloe_agents.runners.closed_loop import BASE, DPO, PREFERRED, REJECTED, claims_of, close_loop
from tests.commands import ALOE, ENVIRONMENT, aloe, one_line

EXAMPLE = Path(__file__).parents[1] / "examples" / "closed_loop.py"
MISSING = [name for name in ("trl", "vllm") if importlib.util.find_spec(name) is None]


def test_people_of_the_small_world_are_all_different_and_the_first_stay_the_same() -> None:
    many = people(400, seed=3)
    assert len({one.profile for one in many}) == 400 and many[:30] == people(30, seed=3) != people(30, seed=4)
    assert all(one.profile.count(".") == 8 and one.personality.count(".") == 2 for one in many)
    words = [word for one in many for word in one.profile.replace(".", "").split()[2::3]]
    assert len({*words}) == 120, "every word of the table, and none of them under two verbs"
    with pytest.raises(ConfigError, match="1 to 10 facts and 1 to 8 traits"):
        people(1, facts=11)


def compared(**curves: list[float]) -> Comparison:
    """A comparison of models with these curves, all their users alike but for a little."""
    rows = []
    for name, curve in curves.items():
        table = [[level + 0.1 * (n % 3 - 1) for level in curve] for n in range(30)]
        rows.append(ComparisonRow(name, measure(table, range(30)), {}))
    return Comparison("judge", len(rows[0].measured.al), 30, tuple(rows))


def test_a_claim_that_does_not_hold_is_said_not_to_hold() -> None:
    rising, flat = [3.0, 3.5, 4.0, 4.5], [1.0, 1.0, 1.0, 1.0]
    names = (BASE, PREFERRED, REJECTED, DPO)
    good = claims_of(compared(**dict(zip(names, (flat, rising, flat, rising), strict=True))))
    assert [claim.holds for claim in good] == [True] * 5
    bad = claims_of(compared(**dict(zip(names, (rising, flat, flat, [0.9] * 4), strict=True))))
    assert [claim.holds for claim in bad] == [False] * 5


@pytest.mark.skipif(not MISSING, reason="both are here")
def test_what_is_missing_is_said_first(tmp_path: Path) -> None:
    assert f"the closed loop needs {MISSING[0]}" in one_line(aloe("demo --train --out x", tmp_path))
    assert not (tmp_path / "x").exists()


def test_an_interrupt_ends_the_loop(tmp_path: Path) -> None:
    for name in MISSING:  # what it would go on with is asked for first
        (tmp_path / "packages" / name).mkdir(parents=True)
    paths = f"{ENVIRONMENT['PYTHONPATH']}{os.pathsep}{tmp_path / 'packages'}"
    process = subprocess.Popen(
        [*ALOE, "demo", "--train", "--out", "loop"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    journal, deadline = tmp_path / "loop/trees/journal.sqlite-wal", time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size > 200_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Resume with:  aloe demo --train --out loop\n" in said, said
    assert "sft" not in said and not (tmp_path / "loop/models").exists()


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1500)
@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not here")
def test_a_model_learns_to_take_up_what_its_user_told_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    quick = runpy.run_path(str(EXAMPLE))["QUICK"]
    found, claims = close_loop(tmp_path / "loop", quick)
    report = (tmp_path / "loop/report.md").read_text()
    assert all(f"- {'yes' if claim.holds else '**no**'}: {claim.text}" in report for claim in claims)
    above_base, above_rejected, dpo, rises, dpo_rises = claims
    assert above_base.holds and above_rejected.holds and rises.holds and dpo_rises.holds, report
    average = {row.name: row.measured.statistics["average"] for row in found.rows}
    assert dpo.holds or average[DPO].high > average[PREFERRED].value, report  # 40 users do not tell them apart
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "loop").rglob("*.safetensors")}
    close_loop(tmp_path / "loop", quick)  # nothing is done twice
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 4
    assert (tmp_path / "loop/report.md").read_text() == report
