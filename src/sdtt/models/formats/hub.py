"""Checkpoints of the Hugging Face hub, by name and revision, as local folders."""

import difflib
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

FILES = (
    *("config.json", "generation_config.json"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model"),
)
"""What is downloaded of a checkpoint: no code and no pickles."""

NO_JSON = "its answer is no JSON, but perhaps the page of a proxy or of a log-in"
_TROUBLE = (HfHubHTTPError, OSError, HFValidationError, JSONDecodeError)


def fetch_config(name: str, revision: str | None = None) -> Path:
    """The config.json of a repository.

    Raises:
        ValueError: If there is no such repository, revision or file, or no network.
    """
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except _TROUBLE as error:
        raise _trouble(name, revision, error) from error


def fetch(name: str, revision: str | None = None) -> Path:
    """A folder with config, weights and tokenizer of a repository; what is cached is not loaded.

    Args:
        name: On the hub, ``owner/name``.
        revision: A branch, tag or commit; the main branch by default.

    Raises:
        ValueError: As ``fetch_config``.
    """
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except _TROUBLE as error:
        raise _trouble(name, revision, error) from error


def _trouble(name: str, revision: str | None, error: Exception) -> ValueError:
    """One line on what is wrong, and the way out."""
    if isinstance(error, RevisionNotFoundError):
        return ValueError(f"{name} on the hub has no revision {revision!r}{_near(name, revision)}")
    if isinstance(error, GatedRepoError):
        return ValueError(f"{name} on the hub is gated: ask there for access, then 'hf auth login'")
    if isinstance(error, RepositoryNotFoundError):
        return ValueError(f"there is no folder {name}, and no model of that name on the hub")
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
        at = f" at revision {revision!r}" if revision else ""
        return ValueError(
            f"there is no folder {name}; of that name on the hub{at} nothing is cached, and there "
            "is no network: download it elsewhere ('hf download') and give the local folder"
        )
    if isinstance(error, EntryNotFoundError):
        return ValueError(f"{name} on the hub has no config.json: it is no model, or not whole")
    if isinstance(error, JSONDecodeError):
        return ValueError(f"cannot fetch {name} from the hub: {NO_JSON}")
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(f"cannot fetch {name} from the hub: {first}")


def _near(name: str, revision: str | None) -> str:
    """The revisions of the nearest names, if the hub tells."""
    try:
        refs = HfApi().list_repo_refs(name)
    except Exception:  # names are a courtesy: whatever fails here, the revision is not there
        return ""
    known = [ref.name for ref in (*refs.branches, *refs.tags)]
    near = difflib.get_close_matches(str(revision), known, n=3, cutoff=0.5) or known[:3]
    return f"; there are {len(known)}, the nearest: {', '.join(near)}" if near else ""
