"""A language model from scratch: a tokenizer trained on given text, and a Qwen2 with a million random weights.

Nothing is downloaded, and the model knows nothing until it is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WIDTH = 0.1
"""Standard deviation of the initial weights. transformers' 0.02 suits models ten times as wide: with it, a model of this
size needs a million tokens before it copies anything from its context."""


def make_tokenizer(
    corpus: Iterable[str],
    *,
    vocabulary: int = 2048,
    template: str = CHATML,
    special: Sequence[str] = (),
    end: str = END_OF_TURN,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most ``vocabulary`` tokens. It encodes any text, and text like ``corpus`` in few tokens.

    ``end`` is the token that ends an answer; ``special`` are further tokens of ``template`` (default: ChatML).
    """
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(dict.fromkeys([END_OF_TEXT, TURN, END_OF_TURN, end, *special])),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=end, pad_token=END_OF_TEXT, chat_template=template
    )


def make_model(
    directory: Path,
    corpus: Iterable[str],
    *,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    context: int = 4096,
    seed: int = 0,
) -> int:
    """Save an untrained Qwen2, and a tokenizer trained on ``corpus``, to ``directory``. Returns the number of parameters."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer(corpus)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        initializer_range=_WIDTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
    return int(sum(parameter.numel() for parameter in model.parameters()))
