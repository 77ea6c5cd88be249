"""``aloe train`` on trees of the scripted world: SFT, then DPO, whole and by adapter, resumed, mixed; and bad input."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from aloe_agents.errors import ConfigError
from aloe_agents.model import ChatMessage
from aloe_agents.training.plan import Method, TrainingPlan, TrainingSummary, last_checkpoint
from aloe_agents.training.preparing import as_rows, conversations, digest_of_files, fitted, mixed, read_rows
from aloe_agents.training.rows import Row
from aloe_agents.training.train import TrainingStep, load_model, train
from tests.commands import aloe, one_line
from tests.test_personas import AUTHORS, OWN

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="trl is not here (pip install '.[train]')"
)
METHODS: tuple[Method, ...] = ("sft", "dpo")
AGENT = [
    {"id": "a", "conversations": [
        {"role": "system", "content": "You can run code."}, {"role": "user", "content": "Add two and three."},
        {"role": "assistant", "content": "<execute>print(2 + 3)</execute>"}, {"role": "user", "content": "5"},
        {"role": "assistant", "content": "It is five."},
    ]},
    {"conversations": [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "Hello."}]},
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight conversations with three turns, and a tiny model."""
    from tests.tiny_models import make_tiny

    folder = tmp_path_factory.mktemp("train")
    pools = f"--profiles {OWN}/profiles.txt --personalities {OWN}/personalities.txt"
    assert aloe(f"simulate {pools} --count 8 --turns 3 --out run --plain", folder).returncode == 0
    make_tiny(folder / "base", "qwen2", (OWN / "profiles.txt").read_text().splitlines())
    shutil.copytree(folder / "base", folder / "bare")
    (folder / "bare/chat_template.jinja").unlink()
    assert aloe("export run --to kto --out kto.jsonl", folder).returncode == 0
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text('{"base_model_name_or_path": "../base", "r": 4}')
    (folder / "agent.jsonl").write_text("".join(json.dumps(row) + "\n" for row in AGENT * 20))
    return folder


def trained(asked: TrainingPlan, **how: Any) -> Any:
    """``train``, untyped: a figure that may be None is compared as it is."""
    return train(asked, **how)


def plan(place: Path, out: Path, **given: Any) -> TrainingPlan:
    chosen = {"method": "sft", "model": str(place / "base"), "data": str(place / "run"), "batch": 6, "epochs": 1.0,
              "learning_rate": 1e-3, **given}  # fmt: skip
    return TrainingPlan(out=str(out), **chosen)


@pytest.mark.parametrize("lora", [0, 4])
def test_sft_then_dpo_packed_and_flat_alike(place: Path, tmp_path: Path, lora: int) -> None:
    packed, flat = (
        trained(plan(place, tmp_path / packing, packing=packing, lora=lora)) for packing in ("tree", "flat")
    )
    assert packed.rows == flat.rows == 24 and packed.conversations == 8 and packed.packing_ratio > 1.5
    assert packed.turns_per_step == flat.turns_per_step == 6
    assert packed.loss_last < packed.loss_first and packed.packed_apart_from_flat < 1e-5
    assert (tmp_path / "tree/adapter_config.json").exists() is bool(lora)
    assert json.loads((tmp_path / "tree/training.json").read_text()) == packed.to_json()
    if not lora:
        dpo = trained(plan(place, tmp_path / "dpo", method="dpo", model=str(tmp_path / "tree")))
        assert dpo.loss_first == pytest.approx(0.6931, abs=0.01), "the reference is the model itself"
        assert dpo.loss_last < 0.69 and dpo.plan.beta == 0.9


async def test_it_trains_in_a_running_loop_and_in_a_thread_without_printing(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[TrainingStep] = []
    here = trained(plan(place, tmp_path / "here"), progress=steps.append)
    there = await asyncio.to_thread(train, plan(place, tmp_path / "there"))
    assert (here.loss_first, here.steps) == (there.loss_first, there.steps)
    assert [now.step for now in steps] == [*range(here.steps + 1)] and steps[-1].steps == here.steps
    assert steps[-1].figures["loss"] > 0
    printed = capfd.readouterr()
    assert not printed.out and not printed.err
    assert TrainingSummary.from_json(here.to_json()) == here
    with pytest.raises(ConfigError, match="not a record of TrainingSummary: rows"):
        TrainingSummary.from_json(here.to_json() | {"rows": "many"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "ppo"}, "method must be one of sft, dpo, not 'ppo'"),
        ({"packing": "none"}, "packing must be one of tree, flat, not 'none'"),
        ({"batch": 0}, "batch must be a whole number of at least 1, not 0"),
        ({"epochs": -1}, "epochs must be above 0, not -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"max_length": 1}, "max_length must be a whole number of at least 2, not 1"),
        ({"min_margin": float("inf")}, "min_margin must be a number, not inf"),
        ({"mix": "agent.jsonl"}, "mix must be SOURCE:SHARE, such as agent.jsonl:0.3, not 'agent.jsonl'"),
        ({"mix": "agent.jsonl:2"}, "mix needs a share above 0 and at most 1, not 2"),
        ({"method": "dpo", "mix": "agent.jsonl:0.3"}, "mix is for sft"),
        ({"method": "dpo", "chosen": "rejected"}, "rejected must differ from chosen, but both are 'rejected'"),
        ({"chosen": ""}, "chosen must name at least one label"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_by_its_field(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        TrainingPlan(**{"method": "sft", "model": "m", "data": "d", "out": "o", **given})
    assert str(refused.value).startswith(said) and "--" not in str(refused.value)


def test_a_plan_has_the_papers_values() -> None:
    sft, dpo = (TrainingPlan(method=method, model=Path("m"), data="d", out="o") for method in METHODS)
    assert (sft.model, sft.epochs, sft.learning_rate, sft.batch) == ("m", 3.0, 1e-5, 48)
    assert (dpo.epochs, dpo.beta, dpo.chosen, dpo.rejected) == (1.0, 0.9, "preferred", "rejected")


def test_where_a_tree_is_not_its_rows_training_goes_on_with_rows(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    # rotations that depend on how long a sequence is: a tree is longer than its rows
    shutil.copytree(place / "base", tmp_path / "dynamic")
    config = json.loads((place / "base/config.json").read_text())
    rotations = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    config |= {"max_position_embeddings": 64, "rope_parameters": rotations}
    (tmp_path / "dynamic/config.json").write_text(json.dumps(config))
    found = trained(plan(place, tmp_path / "out", model=tmp_path / "dynamic", max_length=2000), say=said.append)
    assert found.trained_on == "flat rows" and found.rows == 24 and found.packing_ratio is None
    assert found.packed_apart_from_flat > 1e-3
    assert "nats per token from flat rows with this model: training with flat rows" in said[-1]
    assert not capfd.readouterr().out


def test_a_training_goes_on_from_its_checkpoint_to_the_same_loss(place: Path, tmp_path: Path) -> None:
    whole = trained(plan(place, tmp_path / "whole", epochs=2.0))
    steps = whole.steps // 2
    shutil.copytree(tmp_path / f"whole/checkpoint-{steps}", tmp_path / f"cut/checkpoint-{steps}")
    record = {name: value for name, value in whole.to_json().items() if name != "steps"}
    record["plan"] = plan(place, tmp_path / "cut", epochs=2.0).__dict__
    place_of_record = tmp_path / "cut/training.json"
    place_of_record.write_text(json.dumps(record | {"examples_per_step": 4}))
    with pytest.raises(
        ConfigError, match="begun with steps of 4 conversations, and with 1 processes they would be of 2"
    ):
        trained(plan(place, tmp_path / "cut", epochs=2.0))
    place_of_record.write_text(json.dumps(record))
    again = trained(plan(place, tmp_path / "cut", epochs=2.0))
    assert again.steps == whole.steps and again.loss_last == pytest.approx(whole.loss_last, rel=1e-4)


def test_a_disk_that_takes_no_more_leaves_the_last_whole_checkpoint_in_use(place: Path, tmp_path: Path) -> None:
    command = f"train sft --model {place}/base --data {place}/run --batch 6 --epochs 1 --out x"
    full = aloe(command, tmp_path, before="ulimit -f 200;")  # no file of more than 200 blocks: as if the disk were full
    assert full.returncode == 1, full.stderr
    said = [line for line in full.stderr.splitlines() if line.startswith("aloe: cannot write x")]
    assert len(said) == 1 and "there is no checkpoint yet" in said[0] and "make room" in said[0], full.stderr
    assert "Traceback" not in full.stderr
    (tmp_path / "x/checkpoint-9").mkdir(exist_ok=True)  # cut short
    assert last_checkpoint(tmp_path / "x") is None
    # nothing is there to go on from, so other settings are no matter
    done = aloe(f"{command} --set per_device_train_batch_size=2", tmp_path)
    assert done.returncode == 0 and last_checkpoint(tmp_path / "x") is not None, done.stderr


@pytest.mark.skipif(not AUTHORS.exists(), reason="the authors' files are not here")
def test_a_hundred_trees_of_real_personas_train_an_epoch_of_sft_and_of_dpo(place: Path, tmp_path: Path) -> None:
    pools = f"--profiles {AUTHORS}/profile.jsonl --personalities {AUTHORS}/personality.jsonl"
    assert aloe(f"simulate {pools} --count 100 --out run --plain", tmp_path).returncode == 0
    data = {"data": str(tmp_path / "run"), "batch": 48}
    sft = trained(plan(place, tmp_path / "sft", **data))
    assert (sft.rows, sft.conversations) == (1000, 100) and sft.packing_ratio > 3
    assert sft.loss_last < sft.loss_first
    dpo = trained(plan(place, tmp_path / "dpo", method="dpo", model=str(tmp_path / "sft"), **data))
    assert dpo.rows == 1000 and dpo.packing_ratio > 5 and dpo.loss_last < 0.69


def test_agent_data_is_mixed_in_whole_conversations(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    assert [len([*as_rows(messages, "x")]) for messages in conversations(place / "agent.jsonl")][:2] == [2, 1]
    own: list[Row] = [{"prompt": [], "completion": [], "conversation": f"p{n // 5}"} for n in range(30)]
    made = mixed(own, place / "agent.jsonl", 0.4, seed=1)
    others = [row for row in made if row["conversation"].startswith("mixed")]
    assert len(others) in (20, 21) and len(made) - len(others) == 30
    assert made == mixed(own, place / "agent.jsonl", 0.4, seed=1) != mixed(own, place / "agent.jsonl", 0.4, seed=2)
    (tmp_path / "set").mkdir()
    shutil.copy(place / "agent.jsonl", tmp_path / "set/train.jsonl")
    before = digest_of_files(tmp_path / "set")
    with (tmp_path / "set/train.jsonl").open("a") as file:
        file.write(json.dumps(AGENT[0]) + "\n")
    assert digest_of_files(tmp_path / "set") != before, "another training, then"
    shutil.copy(place / "agent.jsonl", tmp_path / "set/train.jsonl")
    assert digest_of_files(tmp_path / "set") == before
    assert [*conversations(tmp_path / "set")] == [*conversations(place / "agent.jsonl")], "a folder, as a data set"
    with pytest.raises(ConfigError, match="nobody/nothing is not a file, and cannot be loaded as a data set"):
        list(conversations("nobody/nothing"))
    with pytest.raises(ConfigError, match=r"has 60 answers, but a share of 0\.9 needs 270"):
        mixed(own, place / "agent.jsonl", 0.9, seed=1)
    summary = trained(plan(place, tmp_path / "m", mix=f"{place / 'agent.jsonl'}:0.25"))
    assert summary.rows in (32, 33)


class Words:
    """A tokenizer of one token a word, and one a message."""

    chat_template: str | None = "there is one"

    def apply_chat_template(
        self, conversation: Sequence[ChatMessage], *, tokenize: bool, return_dict: bool = False
    ) -> str | Mapping[str, Sequence[int]]:
        if not tokenize:
            return "".join(f"<{message['content']}>" for message in conversation)
        assert return_dict
        return {"input_ids": [0] * sum(1 + len(message["content"].split()) for message in conversation)}


def test_what_is_too_long_loses_its_oldest_turns_and_never_its_answer() -> None:
    roles = ["user", "assistant"] * 3
    turns: list[ChatMessage] = [{"role": role, "content": "one two three"} for role in roles[:-1]]
    row: Row = {"prompt": turns, "completion": [{"role": "assistant", "content": "four five"}], "conversation": "c"}
    kept, counts = fitted([row], Words(), 16)
    assert [len(one["prompt"]) for one in kept] == [3] and counts == {"shortened": 1}
    assert kept[0]["prompt"] == turns[2:] and kept[0]["completion"] == row["completion"]
    assert fitted([row], Words(), 5) == ([], {"too long": 1})
    assert fitted([row], Words(), 16, "drop") == ([], {"too long": 1})
    assert len(fitted([row], Words(), 100)[0][0]["prompt"]) == 5
    with pytest.raises(ConfigError, match="max_length is 16, but a row has 23 tokens"):
        fitted([row], Words(), 16, "refuse")
    bare = Words()
    bare.chat_template = ""
    with pytest.raises(ConfigError, match=r"chat_template is needed \(a Jinja file\): this model's tokenizer has none"):
        fitted([row], bare, 16)


def test_a_training_that_is_over_is_not_done_again_and_another_is_refused(place: Path, tmp_path: Path) -> None:
    command = f"train sft --model {place}/base --data {place}/run --batch 6 --epochs 1 --out x"
    assert aloe(command, tmp_path).returncode == 0
    (events,) = (tmp_path / "x").glob("runs/*/events.out.tfevents.*")  # what TensorBoard shows
    before = (tmp_path / "x/model.safetensors").stat().st_mtime_ns
    again = aloe(command, tmp_path)
    assert again.returncode == 0 and "steps" in again.stdout and not again.stderr
    assert (tmp_path / "x/model.safetensors").stat().st_mtime_ns == before and events.exists()
    other = aloe(f"{command} --learning-rate 0.1", tmp_path)
    assert other.returncode == 2
    assert (
        "--out x holds a training with other settings (learning_rate 1e-05, now 0.1): choose another directory"
        in one_line(other)
    )


def test_arguments_of_trl_are_passed_on(place: Path, tmp_path: Path) -> None:
    arguments = {"per_device_train_batch_size": 2, "warmup_steps": 3, "report_to": "none", "save_strategy": "no"}
    summary = trained(plan(place, tmp_path / "out", arguments=arguments))
    assert summary.steps == 4, "two conversations of three turns at once are six turns"
    assert not list((tmp_path / "out").glob("checkpoint-*")) and not (tmp_path / "out/runs").exists()


def test_a_chat_template_is_lent_to_a_tokenizer_without_one(place: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: "
        "{% endif %}"
    )
    summary = train(
        plan(place, tmp_path / "out", model=str(place / "bare"), chat_template=str(tmp_path / "plain.jinja"))
    )
    assert summary.rows == 24 and "assistant: " in (tmp_path / "out/chat_template.jinja").read_text()


def test_an_interrupt_says_where_training_goes_on(place: Path, tmp_path: Path) -> None:
    words = f"train sft --model {place}/base --data {place}/run --batch 6 --epochs 500 --out x"
    process = subprocess.Popen(
        [sys.executable, "-m", "aloe_agents.runners.cli", *words.split()],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while last_checkpoint(tmp_path / "x") is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "aloe: stopped; run the same command again, and it resumes from x/checkpoint-" in said


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(place: Path, tmp_path: Path) -> None:
    assert aloe(f"export {place}/run --to dpo --out rows", tmp_path).returncode == 0
    lines = (tmp_path / "rows/train.jsonl").read_text().splitlines()
    del lines[15:18], lines[14], lines[4:6]  # two conversations are shorter than the others
    (tmp_path / "uneven.jsonl").write_text("\n".join(lines) + "\n")
    shared = f"train dpo --model {place}/base --data uneven.jsonl --epochs 1 --learning-rate 0.1 --batch 6"
    one = aloe(f"{shared} --set optim=sgd --out one", tmp_path)
    assert one.returncode == 0, one.stderr
    launch = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    words = f"{launch} -m aloe_agents.runners.{shared} --set optim=sgd --out two"
    two = subprocess.run(
        [sys.executable, *words.split()], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("packing ratio") == 1, "one process speaks for all"
    flat = f"{launch} -m aloe_agents.runners.{shared} --packing flat --out flat"
    done = subprocess.run(
        [sys.executable, *flat.split()], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two")]
    assert found[0]["steps"] == found[1]["steps"] == 3 and found[0]["rows"] == 18
    import safetensors.torch

    weights = [safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    base = safetensors.torch.load_file(place / "base/model.safetensors")
    moved = max(float((value - base[name]).abs().max()) for name, value in weights[0].items())
    assert moved > 1e-4
    assert all(float((value - weights[1][name]).abs().max()) < 0.01 * moved for name, value in weights[0].items())


def test_uneven_conversations_become_pieces_of_one_length() -> None:
    from aloe_agents.training.trainers import evened

    same = [["a1", "a2"], ["b1", "b2"]]
    assert evened(same) == same
    uneven = [["a1", "a2", "a3"], ["b1", "b2", "b3"], ["c1"], ["d1", "d2", "d3", "d4", "d5"]]
    assert evened(uneven) == [["a1", "a2", "a3"], ["b1", "b2", "b3"], ["d1", "d2", "d3"], ["c1", "d4", "d5"]]
    assert evened([["a1", "a2"], ["b1", "b2"], ["c1"]])[-1] == ["c1", "a1"], (
        "filled up, as for processes without a share"
    )


def test_rows_of_an_export_train_as_well(place: Path, tmp_path: Path) -> None:
    assert aloe(f"export {place}/run --to sft --out rows", tmp_path).returncode == 0
    shutil.copytree(place / "base", tmp_path / "base")
    asked = plan(place, tmp_path / "out", data=str(tmp_path / "rows"), model=str(tmp_path / "base"))
    summary = trained(asked)
    assert summary.rows == 24 and summary.conversations == 8
    assert trained(asked) == summary
    lines = (tmp_path / "rows/train.jsonl").read_text().splitlines()
    (tmp_path / "rows/train.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    (tmp_path / "base/config.json").write_text((tmp_path / "base/config.json").read_text() + "\n")
    with pytest.raises(ConfigError, match=r"base had other contents; .*rows had other contents"):
        trained(asked)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train sft --model nowhere --data {place}/run --out x", "nowhere holds no model: there is neither a config.json"),
        ("train sft --model {place}/adapter --data {place}/run --out x", "is an adapter: merge it into"),
        ("train dpo --model {place}/base --data {place}/run --mix {place}/agent.jsonl:0.3 --out x", "--mix is for sft: dpo learns from pairs"),
        ("train sft --model {place}/base --data {place}/kto.jsonl --out x", "line 1 is a row for kto"),
        ("train sft --model {place}/base --data {place}/kto.jsonl --label rejected --out x",
         ": it was settled when these rows were exported; pass the run's directory"),
        ("train sft --model {place}/base --data nowhere --out x", "cannot read nowhere"),
        ("train sft --model {place}/base --data {place}/base --out x", "base holds neither trees.jsonl (a run) nor train.jsonl"),
        ("train sft --model {place}/base --data {place}/run --judge nobody --out x", "--judge needs scores, but no turn has scores of both answers by the judge 'nobody'"),
        ("train dpo --model {place}/base --data {place}/agent.jsonl --out x", "line 1 is not a row with prompt, chosen, rejected"),
        ("train sft --model {place}/base --data {place}/run --chosen neutral --out x",
         "--chosen is neutral, but the answers are labelled preferred, rejected"),
        ("train dpo --model {place}/base --data {place}/run --chosen rejected --out x", "--rejected must differ from chosen"),
        ("train sft --model {place}/base --data {place}/run --mix agent --out x", "--mix must be SOURCE:SHARE"),
        ("train sft --model {place}/base --data {place}/run --mix {place}/run/trees.jsonl:0.5 --out x", "has no conversations"),
        ("train sft --model {place}/base --data {place}/run --max-length 20 --too-long drop --out x",
         "no row is left to train on: 24 too long"),
        ("train sft --model {place}/base --data {place}/run --max-length 20 --too-long refuse --out x", "--max-length is 20, but a row has"),
        ("train sft --model {place}/base --data {place}/run --set warmup_step=3 --out x", "did you mean warmup_steps?"),
        ("train dpo --model {place}/base --data {place}/run --set max_length=9 --out x", "--set cannot set max_length; use --max-length instead"),
        ("train sft --model {place}/base --data {place}/run --set lr_scheduler_type=up --out x", "--set cannot be used: up is not a valid SchedulerType"),
        ("train sft --model {place}/base --data {place}/run --set eval_strategy=epoch --out x", "--set cannot be used: You have set"),
        ("train sft --model {place}/base --data {place}/run --set per_device_train_batch_size=0 --out x", "a number of 1 or more, not 0"),
        ("train sft --model {place}/base --data {place}/run --attention eager --out x", "not 'eager': eager adds a mask and is wrong"),
        ("train sft --model {place}/bare --data {place}/run --out x", "--chat-template is needed (a Jinja file)"),
        ("train sft --model {place}/bare --data {place}/run --chat-template nowhere --out x", "cannot read nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_said_in_one_line(place: Path, tmp_path: Path, command: str, said: str) -> None:
    done = aloe(command.format(place=place), tmp_path)
    assert said in done.stderr.splitlines()[-1], done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "x").exists()


def test_rows_are_read_from_parquet_as_from_jsonl(place: Path, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "set/train.parquet"):
        assert aloe(f"export {place}/run --to dpo --out {name}", tmp_path).returncode == 0
    lines, table = (read_rows(tmp_path / name, "dpo")[0] for name in ("rows.jsonl", "set"))
    assert lines == table and len({row["conversation"] for row in lines}) == 8
    (tmp_path / "no.parquet").write_text("no table")
    with pytest.raises(ConfigError, match=r"no\.parquet cannot be read as Parquet"):
        read_rows(tmp_path / "no.parquet", "dpo")


def test_a_cap_on_attention_logits_is_kept_with_flat_rows_and_refused_for_trees(place: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(place / "base")
    Gemma2ForCausalLM(
        Gemma2Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                     num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    ).save_pretrained(tmp_path / "capped")  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "capped")
    with pytest.raises(ConfigError, match="sdpa leaves out this model's cap on attention logits: train with flat rows"):
        trained(plan(place, tmp_path / "tree", model=str(tmp_path / "capped")))
    flat = plan(place, tmp_path / "flat", model=str(tmp_path / "capped"), packing="flat")
    assert load_model(flat, torch.float32).config._attn_implementation == "eager"
    assert trained(flat).trained_on == "flat rows"


def test_rows_of_other_tools_are_conversations_of_their_own_and_a_margin_counts(tmp_path: Path) -> None:
    said = {"prompt": [{"role": "user", "content": "Hello."}], "completion": [{"role": "assistant", "content": "Hi."}]}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({**said, "margin": n}) + "\n" for n in (0, 1, 2)))
    found, left = read_rows(tmp_path / "rows.jsonl", "sft", min_margin=1)
    assert len({row["conversation"] for row in found}) == 2 and left.out == {"margin too small": 1}


def test_without_trl_it_is_one_line_with_the_command(place: Path, tmp_path: Path) -> None:
    (tmp_path / "trl.py").write_text("raise ImportError('not here')\n")
    done = aloe(
        f"train sft --model {place}/base --data {place}/run --out x",
        tmp_path,
        {"PYTHONPATH": f"{tmp_path}:{OWN.parents[1]}"},
    )
    assert "pip install 'aloe-agents[train]'" in one_line(done)
