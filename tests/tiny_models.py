"""Models small enough to make in a second: nothing is downloaded, and what they say means nothing.

They are for tests of the way to a server and back, not of what a model writes. Each family has its architecture and a
chat template of its family's form; Mistral's knows no system message and wants user and assistant in turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aloe_agents.training.scratch import CHATML, END_OF_TEXT, END_OF_TURN, make_tokenizer

HEADERS = (
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
INSTRUCT = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user and assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }}<|endoftext|>{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
FAMILIES = {
    "qwen2": ("Qwen2", CHATML, END_OF_TURN),
    "llama": ("Llama", HEADERS, "<|eot_id|>"),
    "mistral": ("Mistral", INSTRUCT, END_OF_TEXT),
    "olmo": ("Olmo", PLAIN, END_OF_TEXT),
}
HIDDEN, LAYERS = 128, 4


def make_tiny_qwen2(directory: Path, corpus: Iterable[str]) -> None:
    """A Qwen2 of about a million parameters, as :func:`make_tiny` makes it."""
    make_tiny(directory, "qwen2", corpus)


def make_tiny(directory: Path, family: str, corpus: Iterable[str], context: int = 32768) -> None:
    """Save a randomly initialised model of about a million parameters to ``directory``, the same one each time.

    Its byte-level tokenizer is trained on ``corpus``, so it encodes any text and spends few tokens on text like that.
    """
    import torch
    import transformers

    architecture, template, end = FAMILIES[family]
    tokenizer = make_tokenizer(corpus, template=template, end=end)
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=384,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2 if family != "olmo" else 4,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
