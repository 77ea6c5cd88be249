"""One step of trl's trainers and of the packed ones, from the same weights: the same loss, and the same weights after it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from aloe_agents.engine.expansion import RandomPath
from aloe_agents.errors import ConfigError
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
        found.append({name: value for name, value in row.items() if name not in ("id", "persona", "turn", "margin")})
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
    precompute = {"precompute_ref_log_probs": precomputed, "precompute_ref_batch_size": 2}
    config = (DPOConfig, {"beta": 0.9, **precompute, "gradient_checkpointing": True})
    flat = stepped(DPOTrainer, copy.deepcopy(config), data, place / "qwen2", tmp_path / "a", len(data))
    packed = stepped(TreeDPOTrainer, copy.deepcopy(config), data, place / "qwen2", tmp_path / "b", CONVERSATIONS)
    agree(flat, packed)


async def test_prompt_tuning_is_refused(place: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(place / "qwen2"),
        AutoTokenizer.from_pretrained(place / "qwen2"),
    )
    tuned = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(ConfigError, match="a tree has no place for them: use LoRA"):
        TreeSFTTrainer(
            model, SFTConfig(str(tmp_path), max_length=None, **QUIET), await made("sft"), tokenizer, peft_config=tuned
        )


async def test_a_length_that_cuts_is_refused(place: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(place / "qwen2")
    with pytest.raises(ConfigError, match="max_length=None"):
        TreeSFTTrainer(
            model,
            SFTConfig(str(tmp_path), max_length=64, **QUIET),
            await made("sft"),
            AutoTokenizer.from_pretrained(place / "qwen2"),
        )


# --- the paper's losses, by hand -------------------------------------------------------------------------------------


def by_hand(model: Any, tokenizer: Any, row: dict[str, Any], name: str) -> tuple[float, int]:
    """log P(answer | history, message) of one row, token by token with the softmax written out, and its tokens."""
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*row["prompt"], *row[name]], return_dict=True)["input_ids"]
    assert whole[: len(prompt)] == prompt
    total = 0.0
    with torch.no_grad():
        for place in range(len(prompt), len(whole)):
            logits = model(input_ids=torch.tensor([whole[:place]]), use_cache=False).logits[0, -1].double()
            total += float(logits[whole[place]] - torch.log(torch.exp(logits).sum()))
    return total, len(whole) - len(prompt)


def two_layers(folder: Path, seed: int) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, num_hidden_layers=2, attn_implementation="sdpa")
    config.layer_types = ["full_attention"] * 2
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


async def test_the_losses_are_the_papers(place: Path, tmp_path: Path) -> None:
    (tree,) = await grown(RandomPath(), 3, 1)
    dpo: list[dict[str, Any]] = [{**row} for _, row in rows([tree], "dpo")]
    assert len(dpo) == 3
    tokenizer = AutoTokenizer.from_pretrained(place / "qwen2")
    policy, reference = two_layers(place / "qwen2", 1).eval(), two_layers(place / "qwen2", 2).eval()
    log_p = {name: [by_hand(policy, tokenizer, row, name) for row in dpo] for name in ("chosen", "rejected")}
    log_q = {name: [by_hand(reference, tokenizer, row, name)[0] for row in dpo] for name in ("chosen", "rejected")}

    equation_1 = -sum(value for value, _ in log_p["chosen"]) / sum(count for _, count in log_p["chosen"])
    margins = [
        0.9 * ((log_p["chosen"][n][0] - log_q["chosen"][n]) - (log_p["rejected"][n][0] - log_q["rejected"][n]))
        for n in range(3)
    ]
    equation_2 = sum(math.log(1 + math.exp(-margin)) for margin in margins) / 3

    names = {"sft": ("prompt", "completion"), "dpo": ("prompt", "chosen", "rejected")}
    found = {}
    for method, cls, kind, more, extra in (
        ("sft", TreeSFTTrainer, SFTConfig, {"completion_only_loss": True}, {}),
        ("dpo", TreeDPOTrainer, DPOConfig, {"beta": 0.9}, {"ref_model": copy.deepcopy(reference)}),
    ):
        data: Any = [{**row} for _, row in rows([tree], method)]  # type: ignore[arg-type]
        data = Dataset.from_list([{**{n: row[n] for n in names[method]}, "conversation": "one"} for row in data])
        args = kind(
            str(tmp_path / method), per_device_train_batch_size=1, max_length=None, bf16=False,
            gradient_checkpointing=False, **more, **QUIET, **STEP,
        )  # fmt: skip
        trainer = cls(copy.deepcopy(policy), args, data, tokenizer, **extra)
        trainer.train()
        found[method] = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert found["sft"] == pytest.approx(equation_1, rel=1e-5)
    assert found["dpo"] == pytest.approx(equation_2, rel=1e-4)


async def test_rows_that_are_shuffled_stay_with_their_conversations(place: Path, tmp_path: Path) -> None:
    data, sizes = await made("sft"), []
    for shuffled in (False, True):
        args = SFTConfig(str(tmp_path), max_length=None, bf16=False, shuffle_dataset=shuffled, **QUIET)
        model = AutoModelForCausalLM.from_pretrained(place / "qwen2", attn_implementation="sdpa")
        tokenizer = AutoTokenizer.from_pretrained(place / "qwen2")
        trainer = TreeSFTTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
        sizes.append(sorted(map(len, trainer.train_dataset["tokens"])))
    assert sizes[0] == sizes[1] and len(sizes[0]) == CONVERSATIONS


def test_experts_whose_use_is_balanced_are_refused(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    config = Qwen3MoeConfig(**shape, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, vocab_size=50)
    args = SFTConfig(str(tmp_path), max_length=None, bf16=False, **QUIET)
    with pytest.raises(ConfigError, match="set router_aux_loss_coef=0"):
        TreeSFTTrainer(Qwen3MoeForCausalLM(config), args, None, None)
