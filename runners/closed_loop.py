"""The whole method at the scale of two CPU cores: does a model LEARN to take up what its user told it earlier?

Scripted people of the small world talk to a model. Three models are trained from scratch on the trees: SFT on the
preferred answers, SFT on the rejected ones, and DPO after SFT. vLLM serves each of them, and they are evaluated on people
who took no part in training.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from aloe_agents.config import EVALUATION_ROLES, NEEDED_ROLES, load_config
from aloe_agents.errors import ConfigError
from aloe_agents.evaluation.comparison import Comparison, compare
from aloe_agents.evaluation.results import read_results
from aloe_agents.files import replacing
from aloe_agents.models.scripted.small_world import people
from aloe_agents.models.serving import on_gpu
from aloe_agents.personas import Persona, write_personas
from aloe_agents.runners.candidates import in_directory, reachable
from aloe_agents.runners.compare import print_comparison, wide
from aloe_agents.runners.evaluate import evaluate
from aloe_agents.runners.simulate import simulate
from aloe_agents.runners.train import trained
from aloe_agents.training.plan import TrainingPlan
from aloe_agents.tree import read_trees

BASE, PREFERRED, REJECTED, DPO = "base", "sft-preferred", "sft-rejected", "sft-dpo"
REPORT, CURVES = "report.md", "curves.svg"
SIDE_BY_SIDE = 2
"""Models that vLLM loads at a time on a CPU: each takes half a minute of one core, and 3 GB."""
ANSWER = {"temperature": 0.0, "max_tokens": 64}
"""How candidates are sampled. An answer in this world has at most 45 tokens, and an untrained model never ends."""
FAST: dict[str, object] = {"warmup_steps": 50, "adam_beta2": 0.98, "logging_steps": 20, "save_strategy": "no"}


VLLM = ("--dtype", "float32")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything. Two CPU cores do the defaults in twenty minutes."""

    people: int = 1000
    held_out: int = 100
    turns: int = 10
    facts: int = 8
    """Facts in a profile."""
    traits: int = 2
    layers: int = 4
    """Layers of the model."""
    sft_epochs: float = 3.0
    sft_learning_rate: float = 1e-3
    dpo_epochs: float = 1.0
    dpo_learning_rate: float = 1e-5
    batch: int = 20
    """Turns per optimizer step."""
    seed: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A finding of the paper, and whether it came out."""

    holds: bool
    text: str


def close_loop(out: Path, scale: Scale = Scale(), plain: bool = True) -> tuple[Comparison, list[Claim]]:
    """Simulate, train and evaluate in the directory ``out``; what is already there is kept.

    Raises ConfigError, before anything else, where trl or vLLM is missing.
    """
    for name, extra in (("trl", "train"), ("vllm", "serve")):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"the closed loop needs {name}; install it with: pip install 'aloe-agents[{extra}]'")
    everybody = people(scale.people + scale.held_out, scale.seed, scale.facts, scale.traits)
    learned_from, held_out = everybody[: scale.people], everybody[scale.people :]
    write_personas(out / "people.jsonl", learned_from)
    write_personas(out / "held_out.jsonl", held_out)
    run = {"run.seed": scale.seed, "run.turns": scale.turns}
    click.echo(f"simulate {scale.people} people, {scale.turns} turns each")
    config = load_config(None, {**run, **{f"roles.{role}.endpoint": "scripted" for role in NEEDED_ROLES}})
    if simulate(config, learned_from, out / "trees", plain=plain, quiet=True) == 130:
        raise KeyboardInterrupt
    places = _evaluated(out, _models(out, scale), held_out, run, plain)
    found = compare([read_results(place) for place in places])
    claims = list(claims_of(found))
    _report(out, found, claims, scale)
    return found, claims


def _evaluated(
    out: Path, models: Sequence[Path], held_out: Sequence[Persona], run: Mapping[str, Any], plain: bool
) -> list[Path]:
    """Evaluate ``models``; the directories with their results."""
    roles = {f"roles.{role}.endpoint": "scripted" for role in (*EVALUATION_ROLES, "candidate")}
    config = load_config(None, {**run, **roles, "roles.candidate.sampling": ANSWER}, EVALUATION_ROLES)
    places = [out / "evaluations" / model.name for model in models]
    given = [(in_directory(model), place) for model, place in zip(models, places, strict=True)]
    at_once = 1 if on_gpu() else SIDE_BY_SIDE
    for some in (given[at : at + at_once] for at in range(0, len(given), at_once)):
        with contextlib.ExitStack() as served:
            urls = [served.enter_context(reachable(config, model, held_out, place, VLLM)) for model, place in some]
            for (model, place), url in zip(some, urls, strict=True):
                click.echo(f"evaluate {model.name} on {len(held_out)} people who took no part in training")
                code = evaluate(
                    config,
                    model,
                    held_out,
                    place,
                    source="held_out.jsonl",
                    plain=plain,
                    quiet=True,
                    vllm_options=VLLM,
                    url=url,
                )
                if code == 130:
                    raise KeyboardInterrupt
    return places


def claims_of(found: Comparison) -> Iterator[Claim]:
    """What the paper's Table 1 and Figure 4 say about these models, put to the test."""
    measured = {row.name: row.measured.statistics for row in found.rows}
    level = {name: statistics["average"] for name, statistics in measured.items()}
    shown = {name: f"{name} {one.value:.2f} [{one.low:.2f}, {one.high:.2f}]" for name, one in level.items()}
    for other in (BASE, REJECTED):
        yield Claim(
            holds=level[PREFERRED].low > level[other].high,
            text=f"average AL, {shown[PREFERRED]} above {shown[other]}, intervals apart",
        )
    yield Claim(
        holds=level[DPO].value >= level[PREFERRED].value,
        text=f"average AL, {shown[DPO]} at least {shown[PREFERRED]}",
    )
    for name in (PREFERRED, DPO):
        slope = measured[name]["ir"]
        yield Claim(
            holds=slope.low > 0, text=f"IR of {name} positive: {slope.value:.3f} [{slope.low:.3f}, {slope.high:.3f}]"
        )


def _models(out: Path, scale: Scale) -> list[Path]:
    """The four models' directories; those that are missing are trained."""
    from aloe_agents.training.scratch import make_model

    models = {name: out / "models" / name for name in (BASE, PREFERRED, REJECTED, DPO)}
    if not (models[BASE] / "config.json").exists():
        made = make_model(models[BASE], _said(out / "trees" / "trees.jsonl"), layers=scale.layers, seed=scale.seed)
        click.echo(f"base: {made:,} parameters, untrained")
    given: dict[str, Any] = {"data": out / "trees", "batch": scale.batch, "seed": scale.seed}
    given["arguments"] = {**FAST, "per_device_train_batch_size": max(1, scale.batch // scale.turns)}
    sft: dict[str, Any] = {"method": "sft", "model": str(models[BASE]), "epochs": scale.sft_epochs,
                           "learning_rate": scale.sft_learning_rate, **given}  # fmt: skip
    dpo: dict[str, Any] = {"method": "dpo", "model": str(models[PREFERRED]), "epochs": scale.dpo_epochs,
                           "learning_rate": scale.dpo_learning_rate, **given}  # fmt: skip
    for name, how in ((PREFERRED, sft), (REJECTED, {**sft, "chosen": "rejected"}), (DPO, dpo)):
        click.echo(f"train {name}")
        trained(TrainingPlan(out=models[name], **how))
    return list(models.values())


def _said(trees: Path) -> Iterator[str]:
    """The tokenizer's training text: every message after its role, as in the chat template."""
    for tree in read_trees(trees):
        for turn in tree.turns:
            yield f"user\n{turn.user}"
            yield from (f"assistant\n{answer.text}" for answer in turn.answers.values())


def _report(out: Path, found: Comparison, claims: Sequence[Claim], scale: Scale) -> None:
    print_comparison(wide(), found)
    lines = [f"- {'yes' if claim.holds else '**no**'}: {claim.text}" for claim in claims]
    click.echo("\n" + "\n".join(line.replace("**", "") for line in lines))
    settings = ", ".join(f"{name} {value:g}" for name, value in asdict(scale).items())
    with replacing(out / REPORT) as file:
        file.write("\n".join(["# The closed loop", "", settings, "", found.to_markdown(), *lines, ""]).encode())
    click.echo(f"\n{out / REPORT}")
    if importlib.util.find_spec("matplotlib"):
        from aloe_agents.evaluation.curves import plot_curves

        plot_curves(found, out / CURVES)
        click.echo(str(out / CURVES))
