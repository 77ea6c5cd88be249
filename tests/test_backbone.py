"""Packed against flat, in float32 on the CPU: log-probabilities and gradients of every answer, and what must be refused."""

from __future__ import annotations

import functools
import math
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from aloe_agents.engine.expansion import Full, RandomPath
from aloe_agents.errors import ConfigError
from aloe_agents.training.backbone import Batch, add_tree_backbone, collate, disagreement, multiple_of, token_logps
from aloe_agents.training.packing import TokenRow, pack
from aloe_agents.training.rows import rows as rows_of
from aloe_agents.training.scratch import make_tokenizer
from tests.test_rows import grown

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
    "Qwen3Moe": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
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


def answer_logps(model: Any, batch: Batch) -> Any:
    """The log-probability of each answer under its prompt (A,), from one forward pass."""
    return token_logps(model, batch).sum(dim=1)


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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="flex_attention is compiled")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's compiler
def test_blocks_of_flex_attention_let_see_what_the_mask_does() -> None:
    """Forward only: without a GPU it has no backward pass."""
    model, blocks = (made("Gemma3Text", attn_implementation=kind) for kind in ("sdpa", "flex_attention"))
    blocks.load_state_dict(model.state_dict())
    trees = [pack(conversation(turns, turns)) for turns in (5, 3)]
    with torch.no_grad():
        for one in (model, blocks):
            add_tree_backbone(one)
        expected = answer_logps(model, collate(trees))
        found = answer_logps(blocks, collate(trees, multiple=multiple_of(blocks)))
    assert (found - expected).abs().max() < 1e-4


@st.composite
def trees(draw: Any) -> list[TokenRow]:
    """A random conversation of few token kinds, so that messages and answers often begin alike; a path, or all branches."""
    said = st.lists(st.integers(3, 8), min_size=1, max_size=9)
    full = draw(st.booleans())
    rows, open_ = [], [[1]]
    for _ in range(draw(st.integers(1, 3 if full else 6))):
        following = []
        for history in open_:
            prompt = [*history, *draw(said)]
            answers = [draw(said), draw(said)]
            rows += [TokenRow(prompt, answer) for answer in answers]
            kept = answers if full else [draw(st.sampled_from(answers))]
            following += [[*prompt, *answer, 2] for answer in kept]
        open_ = following
    return rows


@settings(max_examples=60, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=3))
def test_random_trees_agree_with_their_rows(conversations: list[list[TokenRow]]) -> None:
    model = small()
    with torch.no_grad():
        expected = flat_logps(model, [row for rows in conversations for row in rows])
        found = answer_logps(model, collate([pack(rows) for rows in conversations]))
    assert (found - expected).abs().max() < 1e-4


@functools.cache
def small() -> Any:
    model = made("Qwen2")
    add_tree_backbone(model)
    return model


TEMPLATES = {
    "Qwen2": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}{% for m in messages %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "Llama 3": (
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
        "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "Mistral": (
        "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
        "{% endif %}{% endfor %}"
    ),
    "OLMo": (
        "<|endoftext|>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' and loop.last %}"
        "<|endoftext|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "Gemma": (
        "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "history told anew": (  # as templates do that drop what was reasoned: no turn's prompt begins with the one before
        "{% for m in messages %}{{ m.role }} {{ messages | length - loop.index }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant 0: {% endif %}"
    ),
}
"""In the shape of each family's, by hand."""


@pytest.mark.parametrize("full", [False, True], ids=["random-path", "full"])
@pytest.mark.parametrize("shape", TEMPLATES)
async def test_every_chat_template_gives_the_same_log_probabilities(shape: str, full: bool) -> None:
    grown_trees = await grown(Full(3) if full else RandomPath(), 3 if full else 10, 2)
    said = [row for tree in grown_trees for _, row in rows_of([tree], "dpo")]
    texts = [message["content"] for row in said for side in ("prompt", "chosen", "rejected") for message in row[side]]
    words = ["<|im_start|>", "<|eot_id|>", "<s>", "</s>", "[INST]", "[/INST]", "<bos>", "<end_of_turn>"]
    tokenizer = make_tokenizer(texts, vocabulary=2048, template=TEMPLATES[shape], special=words)
    rows = []
    for row in said:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        for side in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template([*row["prompt"], *row[side]], return_dict=True)["input_ids"]
            rows.append(TokenRow(prompt, whole[len(prompt) :]))
    model = made("Qwen2", vocab_size=len(tokenizer))
    with torch.no_grad():
        expected = flat_logps(model, rows)
        add_tree_backbone(model)
        tree = pack(rows)
        found = answer_logps(model, collate([tree]))
    assert (found - expected).abs().max() < 1e-4
    if shape != "history told anew":
        assert tree.ratio > (3 if full else 6)


def test_the_oracle_sees_a_branch_that_looks_at_its_sibling() -> None:
    model = made("Qwen2")
    rows = conversation(4, 1)
    with torch.no_grad():
        expected = flat_logps(model, rows)
        add_tree_backbone(model)
        tree = pack(rows)
        causal = np.full_like(tree.end, len(tree.end))
        wrong = [replace(tree, end=causal), replace(tree, positions=np.arange(len(tree.end)))]
        for packed in wrong:
            assert (answer_logps(model, collate([packed])) - expected).abs().max() > 1e-3


def test_a_first_batch_is_checked_against_its_flat_rows() -> None:
    model = made("Llama").train()
    add_tree_backbone(model)
    tree = pack(conversation(5, 3))
    apart, unmasked = disagreement(model, tree)
    assert apart < 1e-5 and unmasked > 1e-3 and model.training
    shuffled = replace(tree, positions=tree.positions[::-1].copy())
    assert disagreement(model, shuffled)[0] > 1e-3


def test_what_is_no_number_is_no_agreement() -> None:
    model = made("Qwen2")
    add_tree_backbone(model)
    with torch.no_grad():
        model.get_output_embeddings().weight[0] = torch.nan
    assert math.isnan(disagreement(model, pack(conversation(5, 3)))[0])


def test_in_bfloat16_the_check_tells_rounding_from_a_wrong_mask() -> None:
    model = made("Qwen2", num_hidden_layers=12, initializer_range=0.2).to(torch.bfloat16)
    add_tree_backbone(model)
    tree = pack(conversation(5, 3))
    apart, unmasked = disagreement(model, tree)
    shuffled = replace(tree, positions=tree.positions[::-1].copy())
    assert 1e-3 < apart < unmasked / 4 < disagreement(model, shuffled)[0]


def test_what_would_be_silently_wrong_is_refused() -> None:
    with pytest.raises(ConfigError, match="need attention by sdpa or flex_attention, not 'eager'"):
        add_tree_backbone(made("Qwen2", attn_implementation="eager"))
    with pytest.raises(ConfigError, match="set attention_dropout to 0"):
        add_tree_backbone(made("Qwen2", attention_dropout=0.1))
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50))
    with pytest.raises(ConfigError, match="set attn_pdrop to 0"):
        add_tree_backbone(gpt2)
    griffin = made("Qwen2")
    griffin.config.layer_types, griffin.config.layers_block_type = None, ["recurrent", "recurrent", "attention"]
    with pytest.raises(ConfigError, match="layers of recurrent carry a state"):
        add_tree_backbone(griffin)
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=50))
    with pytest.raises(ConfigError, match="train with flat rows"):
        add_tree_backbone(mamba)
    hybrid = made("Qwen2")
    hybrid.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(ConfigError, match="layers of linear_attention carry a state"):
        add_tree_backbone(hybrid)
