"""Prompts of held-out text, and how people went on."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prompts:
    """The beginnings of some texts.

    Attributes:
        prompts: Token ids of each beginning.
        whole: The same texts up to ``max_tokens``: beginning and what people wrote behind it.
    """

    prompts: tuple[tuple[int, ...], ...]
    whole: tuple[tuple[int, ...], ...]


def prompts_of(
    rows: Any, *, prompt_tokens: int, max_tokens: int, count: int | None = None
) -> Prompts:
    """The first ``prompt_tokens`` tokens of each text, and its first ``max_tokens``.

    Texts shorter than ``max_tokens`` are passed over. SDTT's MAUVE: 1,024 prompts of 50 tokens,
    out of 100.

    Args:
        rows: Texts of ids in their order: a list of them, or blocks such as
            `data.held.HeldBlocks`.
        prompt_tokens: Of each prompt, at least 1.
        max_tokens: Of prompt and continuation together, more than ``prompt_tokens``.
        count: Prompts; as many as there are by default.

    Raises:
        ValueError: If a number cannot be, or there are fewer long enough texts than ``count``.
    """
    if not 1 <= prompt_tokens < max_tokens:
        raise ValueError(
            "prompt_tokens must be at least 1 and less than max_tokens, got "
            f"{prompt_tokens} and {max_tokens}"
        )
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    whole: list[tuple[int, ...]] = []
    for row in rows:
        if len(whole) == count:
            break
        if len(row) >= max_tokens:
            whole.append(tuple(int(token) for token in row[:max_tokens]))
    if not whole or (count is not None and len(whole) < count):
        raise ValueError(
            f"the text has {len(whole)} rows of {max_tokens} tokens or more, {count or 1} prompts "
            "are asked for; give more text, or ask for fewer or shorter ones"
        )
    return Prompts(tuple(ids[:prompt_tokens] for ids in whole), tuple(whole))
