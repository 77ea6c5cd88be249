"""Packed trees beside trl's flat rows, sorted by length and padded: tokens and seconds per epoch, SFT and DPO.

The model has random weights and is large enough for matrix products to dominate (hidden 512, 6 layers). Conversations are
random tokens: messages of 30 to 60 and answers of 40 to 80. Seconds cover the whole ``train()``, with the optimizer. On a
GPU the shapes are those of 0.5B and 7B, in bfloat16, and packed trees use flex_attention.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ((5, 4), (10, 2), (20, 1))
"""Turns per conversation, and conversations."""
WORDS = ["".join(letters) for letters in itertools.product("abcdefghij", repeat=3)]
ROWS = 4
"""Rows in a flat batch; a packed batch is one conversation."""
HERE = {"small": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2,
              "intermediate_size": 2048, "vocab_size": 8000}}  # fmt: skip
ON_GPU = {
    "0.5B": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
             "intermediate_size": 4864, "vocab_size": 151936},
    "7B": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
           "intermediate_size": 18944, "vocab_size": 152064},
}  # fmt: skip
"""The shapes of Qwen2.5."""


def main() -> None:
    if importlib.util.find_spec("trl") is None:
        print("\n## training: trl is missing (pip install '.[train]')")
        return
    import torch

    on_gpu = torch.cuda.is_available()
    print(f"\n## training: one epoch, packed trees beside flat rows ({ROWS} a batch, sorted by length)")
    print(f"{'model':<6} {'K':>3} {'':<4} {'flat tokens':>12} {'padded':>9} {'packed':>8}   {'flat s':>7} {'packed s':>8}   "
          f"{'ratio of seconds':>16} {'of tokens':>10}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in (ON_GPU if on_gpu else HERE).items():
            for turns, count in SIZES:
                for method in ("sft", "dpo"):
                    _compare(name, shape, method, turns, count, Path(folder), on_gpu)


def _compare(name: str, shape: dict[str, int], method: str, turns: int, count: int, folder: Path, on_gpu: bool) -> None:
    from trl import DPOTrainer, SFTTrainer

    from aloe_agents.training.trainers import TreeDPOTrainer, TreeSFTTrainer

    data = _data(method, turns, 4 * count if on_gpu else count)
    flat_class, tree_class = (SFTTrainer, TreeSFTTrainer) if method == "sft" else (DPOTrainer, TreeDPOTrainer)
    flat, padded, _ = _timed(flat_class, method, data, folder, ROWS, shape, "sdpa", on_gpu)
    attention = "flex_attention" if on_gpu else "sdpa"
    packed, _, trainer = _timed(tree_class, method, data, folder, 1, shape, attention, on_gpu)
    tokens = sum(trainer.train_dataset["flat"])
    encoded = sum(map(len, trainer.train_dataset["tokens"]))
    print(f"{name:<6} {turns:>3} {method:<4} {tokens:>12,} {padded:>9,} {encoded:>8,}   {flat:>7.1f} {packed:>8.1f}   "
          f"{flat / packed:>16.2f} {tokens / encoded:>10.2f}", flush=True)  # fmt: skip


def _timed(
    cls: Any, method: str, data: Any, folder: Path, batch: int, shape: dict[str, int], attention: str, on_gpu: bool
) -> tuple[float, int, Any]:
    """Seconds of an epoch, its tokens with padding, and the trainer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl import DPOConfig, SFTConfig

    from aloe_agents.training.scratch import make_tokenizer

    tokenizer = make_tokenizer([" ".join(WORDS)] * 2, vocabulary=8000)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**shape, max_position_embeddings=8192, attn_implementation=attention))
    if on_gpu:
        model = model.to(torch.bfloat16)
    shared: dict[str, Any] = {
        "output_dir": str(folder / "out"), "per_device_train_batch_size": batch, "num_train_epochs": 1.0, "max_length": None,
        "report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no", "bf16": on_gpu,
        "use_cpu": not on_gpu, "gradient_checkpointing": on_gpu and shape["hidden_size"] > 2000, "optim": "sgd",
    }  # fmt: skip
    if batch > 1:
        shared["train_sampling_strategy"] = "sequential"  # data are sorted: no grouping by length pads less
        data = data.sort("length")
    args = SFTConfig(**shared) if method == "sft" else DPOConfig(precompute_ref_log_probs=False, **shared)
    reference = {} if method == "sft" else {"ref_model": copy.deepcopy(model)}
    trainer = cls(model=model, args=args, train_dataset=data, processing_class=tokenizer, **reference)
    if on_gpu:  # kernels are compiled and chosen before the clock runs
        trainer.train()
    seen: list[int] = []
    collate = trainer.data_collator

    def counting(examples: Any) -> Any:
        made = collate(examples)
        seen.append(made["input_ids"].numel())
        return made

    trainer.data_collator = counting
    began = time.perf_counter()
    trainer.train()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began, sum(seen), trainer


def _data(method: str, turns: int, count: int) -> Any:
    """Conversations of random words, one token each."""
    from datasets import Dataset

    rng = np.random.default_rng(0)

    def said(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(low, high))))

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


if __name__ == "__main__":
    main()
