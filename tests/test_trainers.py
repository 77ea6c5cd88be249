"""One step of trl's trainers and of the packed ones, from the same weights: the same loss, and the same weights after it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from aloe_agents.errors import ConfigError
from aloe_agents.expansion import RandomPath
from aloe_agents.training.rows import rows
from aloe_agents.training.trainers import TreeDPOTrainer, TreeSFTTrainer
from tests.test_rows import grown
from tests.tiny_models import FAMILIES, make_tiny

TURNS, CONVERSATIONS = 4, 3
QUIET = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "use_cpu": True}
STEP = {"learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "max_steps": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        make_tiny(
            folder / family, family, ["She keeps bees in Turin.", "He sings bass in a choir and bakes rye bread."]
        )
    return folder


async def made(form: Any) -> Dataset:
    trees = await grown(RandomPath(), TURNS, CONVERSATIONS)
    found = []
    for _, row in rows(trees, form):
        found.append({name: row[name] for name in row if name not in ("id", "persona", "turn", "margin")})
        found[-1]["conversation"] = row["id"].partition("/")[0].partition("#")[0]
    return Dataset.from_list(found)


def stepped(cls: Any, config: Any, data: Dataset, folder: Path, out: Path, rows_a_step: int, **given: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind, extra = config
    args = kind(
        str(out), per_device_train_batch_size=rows_a_step, max_length=None, bf16=False, **QUIET, **STEP, **extra
    )
    trainer = cls(model=model, args=args, train_dataset=data, processing_class=tokenizer, **given)
    whole = trainer.accelerator.unwrap_model(trainer.model)
    before = {name: value.detach().clone() for name, value in whole.named_parameters() if value.requires_grad}
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return loss, {name: value.detach() - before[name] for name, value in whole.named_parameters() if name in before}


def agree(flat: Any, packed: Any) -> None:
    assert packed[0] == pytest.approx(flat[0], rel=1e-4)
    largest = max(float(change.abs().max()) for change in flat[1].values())
    assert largest > 1e-6
    for name, change in flat[1].items():
        assert float((change - packed[1][name]).abs().max()) < 1e-3 * largest + 1e-7, name


def adapter(lora: bool) -> dict[str, Any]:
    from peft import LoraConfig

    return {"peft_config": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")} if lora else {}


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
async def test_every_family_takes_the_same_step_by_sft_and_by_dpo(
    place: Path, tmp_path: Path, family: str, lora: bool
) -> None:
    for trainers, form, config in (
        (
            (SFTTrainer, TreeSFTTrainer),
            "sft",
            (SFTConfig, {"completion_only_loss": True, "gradient_checkpointing": False}),
        ),
        ((DPOTrainer, TreeDPOTrainer), "dpo", (DPOConfig, {"beta": 0.9, "gradient_checkpointing": False})),
    ):
        data = await made(form)
        flat = stepped(
            trainers[0], copy.deepcopy(config), data, place / family, tmp_path / "a", len(data), **adapter(lora)
        )
        packed = stepped(
            trainers[1], copy.deepcopy(config), data, place / family, tmp_path / "b", CONVERSATIONS, **adapter(lora)
        )
        agree(flat, packed)


@pytest.mark.parametrize("precomputed", [False, True])
async def test_dpo_takes_the_same_step(place: Path, tmp_path: Path, precomputed: bool) -> None:
    data = await made("dpo")
    config = (DPOConfig, {"beta": 0.9, "precompute_ref_log_probs": precomputed, "gradient_checkpointing": True})
    flat = stepped(DPOTrainer, copy.deepcopy(config), data, place / "qwen2", tmp_path / "a", len(data))
    packed = stepped(TreeDPOTrainer, copy.deepcopy(config), data, place / "qwen2", tmp_path / "b", CONVERSATIONS)
    agree(flat, packed)


async def test_a_length_that_cuts_is_refused(place: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(place / "qwen2")
    with pytest.raises(ConfigError, match="max_length=None"):
        TreeSFTTrainer(
            model,
            SFTConfig(str(tmp_path), max_length=64, **QUIET),
            await made("sft"),
            AutoTokenizer.from_pretrained(place / "qwen2"),
        )
