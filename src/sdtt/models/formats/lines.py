"""The account of a checkpoint in lines that a user reads."""

from collections import defaultdict

import torch

from sdtt.models.formats.checkpoint import Checkpoint


def account_lines(
    checkpoint: Checkpoint, *, folded: bool = False, dtype: torch.dtype | None = None
) -> list[str]:
    """What a checkpoint is, and what becomes of each of its keys.

    Args:
        checkpoint: Any.
        folded: Whether its conditioning is folded.
        dtype: What it is cast to, if it is.
    """
    layout, account, config = checkpoint.layout, checkpoint.account, checkpoint.config
    condition = f"{config.conditioning}, {config.cond_dim} wide" if config.cond_dim else "none"
    held = str(checkpoint.dtype).removeprefix("torch.")
    cast = f", written as {str(dtype).removeprefix('torch.')}" if dtype is not None else ""
    lines = [
        f"source      {checkpoint.source}",
        f"layout      {layout.name}: {layout.line}",
        f"model       {config.model_type}: {config.n_blocks} blocks, {config.hidden_dim} wide, "
        f"{config.n_heads} heads, texts of {config.model_length}, {config.vocab_size} ids, "
        f"MASK {config.mask_token_id}, conditioning {condition}",
        f"taken       {len(account.taken)} weights, {account.bytes:,} bytes, {held}{cast}",
    ]
    if folded:
        lines.append(
            f"folded      {len(account.conditioning)} of them, the conditioning, into the others"
        )
    by_reason = defaultdict(list)
    for name, why in sorted(account.left.items()):
        by_reason[why].append(name)
    for why, names in by_reason.items():
        some = ", ".join(names[:3]) + (", ..." if names[3:] else "")
        lines.append(f"left over   {len(names)}: {some}: {why}")
    if not account.left:
        lines.append("left over   nothing")
    return lines + [f"note        {line}" for line in checkpoint.notes]
