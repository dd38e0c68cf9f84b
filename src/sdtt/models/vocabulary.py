"""How many ids a tokenizer has."""

from transformers import PreTrainedTokenizerBase


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest id, and one: the rows that a model needs; ``len`` does not count holes."""
    return 1 + int(max(tokenizer.get_vocab().values()))
