"""The models that others have published, by names that can be remembered.

The names on the hub are those of the release (its code and its cards). Nothing could be downloaded
where this was written: that they load is tested on checkpoints of the same layout, not on these.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sdtt.models.formats import hub

SDTT = "jdeschena/sdtt"
"""Repository of the SDTT release: each model is a revision of its own."""

TEACHER_STEPS = 1024
"""Sampling steps of the teacher of the first round; every round halves them."""

SIZES = {"sm": "169M", "md": "424M", "large": "863M"}
"""Parameters."""


@dataclass(frozen=True)
class Release:
    """One published model.

    Attributes:
        name: Ours, for ``sdtt.load_published`` and ``--model``.
        repository: On the hub.
        revision: There; None for the main branch.
        size: Parameters.
        trained: Updates of the masked diffusion model before any distillation.
        divergence: Between student and teacher, where the release says it.
        round: Rounds of distillation, 10,000 updates each; None if it is not distilled.
        figures: What is published of such a model, as a sentence.
    """

    name: str
    repository: str
    revision: str | None
    size: str
    trained: str
    divergence: str | None = None
    round: int | None = None
    figures: str | None = None

    @property
    def steps(self) -> int | None:
        """Sampling steps that it was distilled for: 1024 / 2^round; None if it was not."""
        return None if self.round is None else TEACHER_STEPS // 2**self.round


_OF_MDLM = (
    "an MDLM of this size and data has Gen PPL (GPT-2-large) / entropy 192.3 / 5.73 at 32 steps, "
    "142.6 / 5.69 at 64, 122.9 / 5.67 at 128, 114.0 / 5.66 at 256, 106.8 / 5.64 at 1024"
)
_OF_ROUND_5 = (
    "a student of 5 rounds (loss in bf16) has Gen PPL (GPT-2-large) / entropy 66.3 / 5.49 at "
    "32 steps, 54.0 / 5.46 at 64, 48.0 / 5.44 at 128, 45.9 / 5.42 at 256, 43.2 / 5.38 at 1024"
)
"""Source: 2505.18883, with draws in float64; of such models, not certainly of these files."""


def _releases() -> list[Release]:
    rounds = range(1, 8)
    found = [Release("mdlm-owt", "kuleshov-group/mdlm-owt", None, "169M", "1M", figures=_OF_MDLM)]
    found.append(Release("mdlm-1m-sm", SDTT, "teacher_1M_sm", SIZES["sm"], "1M"))
    found += [
        Release(f"mdlm-400k-{size}", SDTT, f"teacher_400k_{size}_step_400000", count, "400k")
        for size, count in SIZES.items()
    ]
    found += [
        Release(
            f"sdtt-{divergence}-round{number}",
            SDTT,
            f"baselines_{divergence}_step_{number}0000",
            SIZES["sm"],
            "1M",
            divergence,
            number,
            _OF_ROUND_5 if (divergence, number) == ("kld", 5) else None,
        )
        for divergence in ("kld", "mse", "tvd")
        for number in rounds
    ]
    found += [
        Release(
            f"sdtt-400k-{size}-round{number}",
            SDTT,
            f"scaling_400k_{size}_step_{number}0000",
            count,
            "400k",
            round=number,
        )
        for size, count in SIZES.items()
        for number in rounds
    ]
    return found


RELEASES: Mapping[str, Release] = {release.name: release for release in _releases()}
"""All that are known, by name: teachers first."""

_LIKE_ONE = re.compile(r"(sdtt|mdlm)-[\w.-]+")


def published(name: str) -> Release:
    """What is known of a published model.

    Args:
        name: One of ``RELEASES``.

    Raises:
        ValueError: If there is none of that name; it names the nearest.
    """
    if name not in RELEASES:
        near = difflib.get_close_matches(name, RELEASES, n=3, cutoff=0.5)
        hint = f"near it: {', '.join(near)}; " if near else ""
        raise ValueError(
            f"there is no published model (and no folder) {name!r}; {hint}'sdtt published' lists "
            f"all {len(RELEASES)}"
        )
    return RELEASES[name]


@cache  # a network is asked once a process
def fetch_published(name: str) -> Path:
    """The local folder of a published model, downloaded if it is not in the cache of the hub.

    Args:
        name: One of ``RELEASES``.

    Raises:
        ValueError: If there is none of that name, or it cannot be had: no network, or no such
            repository or revision any more.
    """
    release = published(name)
    try:
        return hub.fetch(release.repository, release.revision)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def is_named(source: str | Path) -> bool:
    """Whether a source, where no local path has that name, can only mean a published model.

    So may a name that is none of them, such as that of an eighth round.
    """
    name = str(source)
    return _LIKE_ONE.fullmatch(name) is not None and not Path(name).exists()
