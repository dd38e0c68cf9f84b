"""Names of weights: what wrappers add to them, and why some of them are not needed."""

import re
from collections.abc import Iterable, Mapping

WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"}
)
"""Parts of names that DDP, torch.compile, FSDP, Lightning and checkpointing put between others."""

ROOT = "backbone."

ROTARY = re.compile(r"(^|\.)rotary_emb\.inv_freq$")

REASONS = {
    ROTARY: "rotary frequencies, which are computed; equal to ours",
    re.compile(r"(^|\.)rotary_emb\.(cos|sin)_cached$"): "rotary angles, which are computed",
    re.compile(r"^teacher\."): "the teacher of its training",
    re.compile(r"^noise\."): "the noise schedule, which is not part of the law",
    re.compile(r"^ema(_model)?\."): "a moving average under names of its own",
    re.compile(r"^(train_|valid_|test_|gen_ppl_)?metrics?\."): "metrics of its training",
}
"""What is left over for a known reason, by plain name."""


def plain(name: str) -> str:
    """The name without what wrappers add, at any depth, and with one ``backbone.`` at most."""
    kept = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    while kept.startswith(ROOT * 2):  # a transformers model as the backbone of a Lightning module
        kept = kept.removeprefix(ROOT)
    return kept


def by_plain_name(names: Iterable[str]) -> Mapping[str, str]:
    """From plain names to those of the file.

    Raises:
        ValueError: If two weights have one plain name.
    """
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(plain(name), name)
        if other != name:
            raise ValueError(f"two weights have one name without wrappers: {other} and {name}")
    return found


def reason(name: str) -> str | None:
    """Why a weight of this plain name is not needed, if that is known."""
    return next((why for pattern, why in REASONS.items() if pattern.search(name)), None)
