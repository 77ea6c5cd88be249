"""Packed against flat, in float32 on the CPU: log-probabilities and gradients of every answer, and what must be refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from aloe_agents.errors import ConfigError
from aloe_agents.training.backbone import add_tree_backbone, answer_logps, collate, disagreement
from aloe_agents.training.packing import TokenRow, pack

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen2": {"num_key_value_heads": 2},
    "Llama": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "Mistral, window": {"num_key_value_heads": 2, "sliding_window": 48},
    "Olmo": {},
    "Gemma3Text": {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 40, "max_position_embeddings": 2048},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 16},
}


def made(name: str, **changed: Any) -> Any:
    family = name.partition(",")[0]
    config = getattr(transformers, f"{family}Config")(
        **{**SHAPE, **MODELS[name], "attn_implementation": "sdpa", **changed}
    )
    torch.manual_seed(0)
    causal = family.removesuffix("Text") + "ForCausalLM"
    model = getattr(transformers, causal)(config)
    return model.eval()


def conversation(turns: int, seed: int, full: bool = False) -> list[TokenRow]:
    """Token rows of a conversation with two answers a turn: along a random path, or of every branch (of few turns)."""
    rng = np.random.default_rng(seed)

    def some(low: int, high: int) -> list[int]:
        return [int(token) for token in rng.integers(3, 300, rng.integers(low, high))]

    rows, open_ = [], [[1, 2]]
    for _ in range(turns):
        following = []
        for history in open_:
            prompt = [*history, *some(5, 12)]
            answers = [some(4, 14), some(4, 14)]
            if rng.random() < 0.2:
                answers[1] = [*answers[0][:2], *answers[1]]  # they begin alike
            rows += [TokenRow(prompt, answer) for answer in answers]
            following += [[*prompt, *answer, 2] for answer in (answers if full else [answers[int(rng.integers(2))]])]
        open_ = following
    return rows


def flat_logps(model: Any, rows: list[TokenRow]) -> Any:
    """Each row by itself, as a flat trainer would score it, without padding."""
    found = []
    for row in rows:
        ids = torch.tensor([[*row.prompt, *row.answer]])
        logps = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1].float(), dim=-1)
        picked = logps.gather(-1, ids[0, 1:, None])[:, 0]
        found.append(picked[len(row.prompt) - 1 :].sum())
    return torch.stack(found)


def gradients(model: Any) -> dict[str, Any]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("full", [False, True], ids=["random-path", "full"])
def test_every_family_gives_the_same_log_probabilities_and_gradients(name: str, full: bool) -> None:
    model = made(name)
    trees = [conversation(3 if full else 5, seed, full) for seed in (1, 2)]
    rows = [row for tree in trees for row in tree]
    weights = torch.linspace(-1, 1, len(rows))
    expected = flat_logps(model, rows)
    (expected * weights).sum().backward()
    flat = gradients(model)
    model.zero_grad()
    add_tree_backbone(model)
    packed = [pack(tree) for tree in trees]
    found = answer_logps(model, collate(packed))
    (found * weights).sum().backward()
    assert (found - expected).abs().max() < 1e-4
    for parameter, gradient in gradients(model).items():
        assert (gradient - flat[parameter]).abs().max() < 1e-4 * max(1.0, float(flat[parameter].abs().max())), parameter
    assert all(tree.ratio > 1.7 for tree in packed)
    assert torch.equal(flat_logps(model, rows[:2]), expected[:2]), "without a tree it does what it always did"


@pytest.mark.parametrize("turns", [5, 10, 20])
def test_long_conversations_agree_as_well(turns: int) -> None:
    model = made("Qwen2")
    rows = conversation(turns, turns)
    with torch.no_grad():
        expected = flat_logps(model, rows)
        add_tree_backbone(model)
        found = answer_logps(model, collate([pack(rows)]))
    assert (found - expected).abs().max() < 1e-4 and pack(rows).ratio > 0.35 * turns


def test_the_oracle_sees_a_branch_that_looks_at_its_sibling() -> None:
    model = made("Qwen2")
    rows = conversation(4, 1)
    with torch.no_grad():
        expected = flat_logps(model, rows)
        add_tree_backbone(model)
        tree = pack(rows)
        causal = np.full_like(tree.end, len(tree.end))
        wrong = [
            type(tree)(tokens=tree.tokens, positions=tree.positions, end=causal, places=tree.places, flat=tree.flat),
            type(tree)(
                tokens=tree.tokens, positions=np.arange(len(tree.end)), end=tree.end, places=tree.places, flat=1
            ),
        ]
        for packed in wrong:
            assert (answer_logps(model, collate([packed])) - expected).abs().max() > 1e-3


def test_a_first_batch_is_checked_against_its_flat_rows() -> None:
    model = made("Llama").train()
    add_tree_backbone(model)
    tree = pack(conversation(5, 3))
    assert disagreement(model, tree) < 1e-4 and model.training
    shuffled = type(tree)(
        tokens=tree.tokens, positions=tree.positions[::-1].copy(), end=tree.end, places=tree.places, flat=tree.flat
    )
    assert disagreement(model, shuffled) > 1e-3


def test_what_would_be_silently_wrong_is_refused() -> None:
    with pytest.raises(ConfigError, match="need attention by sdpa, not 'eager'"):
        add_tree_backbone(made("Qwen2", attn_implementation="eager"))
    with pytest.raises(ConfigError, match="attention dropout"):
        add_tree_backbone(made("Qwen2", attention_dropout=0.1).train())
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=50))
    with pytest.raises(ConfigError, match="train with flat rows"):
        add_tree_backbone(mamba)
    hybrid = made("Qwen2")
    hybrid.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(ConfigError, match="layers of linear_attention carry a state"):
        add_tree_backbone(hybrid)
