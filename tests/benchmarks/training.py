"""Packed trees beside trl's flat rows, padded and grouped by length: tokens and seconds an epoch, SFT and DPO.

A model in which matrix products dominate (hidden 512, 6 layers; on a GPU more), random weights, conversations of random
tokens with messages of 30 to 60 and answers of 40 to 80. Seconds are those of the whole ``train()``, optimizer included.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ((5, 4), (10, 3), (20, 1))
"""Turns, and conversations."""


def main() -> None:
    if importlib.util.find_spec("trl") is None:
        print("\n## training: trl is not here (pip install '.[train]')")
        return
    print("\n## training: one epoch, packed trees beside flat rows (4 a batch, grouped by length)")
    print(f"{'K':>3} {'':<4} {'flat tokens':>12} {'padded':>9} {'packed':>8}   {'flat s':>7} {'packed s':>8}   "
          f"{'ratio of seconds':>16} {'of tokens':>10}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for turns, count in SIZES:
            for method in ("sft", "dpo"):
                _compare(method, turns, count, Path(folder))


def _compare(method: str, turns: int, count: int, folder: Path) -> None:
    from trl import DPOTrainer, SFTTrainer

    from aloe_agents.training.trainers import TreeDPOTrainer, TreeSFTTrainer

    data = _data(method, turns, count)
    flat_class, tree_class = (SFTTrainer, TreeSFTTrainer) if method == "sft" else (DPOTrainer, TreeDPOTrainer)
    flat, rows = _timed(flat_class, method, data, folder, 4)
    packed, trainer = _timed(tree_class, method, data, folder, 1)
    tokens = sum(trainer.train_dataset["flat"])
    encoded = sum(map(len, trainer.train_dataset["tokens"]))
    lengths = _lengths(method, rows.train_dataset)
    padded = sum(len(group) * max(group) for group in (lengths[n : n + 4] for n in range(0, len(lengths), 4)))
    print(f"{turns:>3} {method:<4} {tokens:>12,} {padded:>9,} {encoded:>8,}   {flat:>7.1f} {packed:>8.1f}   "
          f"{flat / packed:>16.2f} {tokens / encoded:>10.2f}", flush=True)  # fmt: skip


def _timed(cls: Any, method: str, data: Any, folder: Path, batch: int) -> tuple[float, Any]:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl import DPOConfig, SFTConfig

    from tests.tiny_models import make_tiny

    if not (folder / "words").exists():
        make_tiny(folder / "words", "qwen2", [" ".join(f"w{n}" for n in range(2000))])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "words")
    on_gpu = torch.cuda.is_available()
    shape = (1024, 24) if on_gpu else (512, 6)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8000, hidden_size=shape[0], intermediate_size=4 * shape[0], num_hidden_layers=shape[1],
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=8192, attn_implementation="sdpa",
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    shared: dict[str, Any] = {
        "output_dir": str(folder / "out"), "per_device_train_batch_size": batch, "num_train_epochs": 1.0, "max_length": None,
        "report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no", "bf16": on_gpu,
        "use_cpu": not on_gpu, "gradient_checkpointing": False, "optim": "sgd",
    }  # fmt: skip
    if batch > 1:
        shared["train_sampling_strategy"] = "group_by_length"
        shared["length_column_name"] = "length"
    args = SFTConfig(**shared) if method == "sft" else DPOConfig(precompute_ref_log_probs=False, **shared)
    trainer = cls(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began, trainer


def _data(method: str, turns: int, count: int) -> Any:
    """Conversations of words, one token each or two."""
    from datasets import Dataset

    rng = np.random.default_rng(0)

    def said(low: int, high: int) -> str:
        return " ".join(f"w{n}" for n in rng.integers(0, 2000, int(rng.integers(low, high) / 2.2)))

    rows = []
    for number in range(count):
        history: list[dict[str, str]] = []
        for _ in range(turns):
            prompt = [*history, {"role": "user", "content": said(30, 60)}]
            answers = [[{"role": "assistant", "content": said(40, 80)}] for _ in range(2)]
            names = ("completion",) if method == "sft" else ("chosen", "rejected")
            row = {"prompt": prompt, **dict(zip(names, answers, strict=False)), "conversation": str(number)}
            rows.append({**row, "length": sum(len(message["content"]) for message in prompt)})
            history = [*prompt, *answers[int(rng.integers(2))]]
    return Dataset.from_list(rows)


def _lengths(method: str, rows: Any) -> list[int]:
    """The lengths of the flat rows as they are tokenised, sorted; of a pair both."""
    if method == "sft":
        return sorted(len(ids) for ids in rows["input_ids"])
    pairs = zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)
    return sorted(len(prompt) + len(answer) for prompt, *answers in pairs for answer in answers)


if __name__ == "__main__":
    main()
