"""`sdtt push`: a model's folder on the hub, with a card."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatch
from json import JSONDecodeError
from pathlib import Path

from sdtt.cli.console import note
from sdtt.cli.options import command
from sdtt.models.checkpoints import check_folder
from sdtt.models.formats.hub import NO_JSON
from sdtt.report.card import Measured, Said, model_card
from sdtt.report.provenance import HUB_NAME, is_hub_name, read_saved

CARD = "README.md"
FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "*.model", "chat_template.*", "modeling_mdlm.py"),
    *(CARD, "LICENSE*"),
)
"""What belongs to a model; of a run's folder the checkpoints and the config stay here."""


OF_CARD = ("evaluation", "label", "teacher", "license", "base_model", "dataset", "language")
"""Settings that say something of a card that is made."""


@dataclass(frozen=True)
class PushSettings:
    """What goes where, and what its card says."""

    folder: Path = field(metadata={"help": "of the model", "positional": True})
    repo: str = field(metadata={"help": "its name on the hub: OWNER/NAME", "positional": True})
    private: bool = field(
        default=False, metadata={"help": "seen by its owner alone, if it is made now"}
    )
    revision: str | None = field(
        default=None, metadata={"help": "the branch that is written; main by default"}
    )
    evaluation: Path | None = field(
        default=None, metadata={"help": "folder of an evaluation whose tables the card holds"}
    )
    label: str | None = field(
        default=None,
        metadata={"help": "what the model is called there; found by its files by default"},
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "what its teacher is called there; by default the one not taught"},
    )
    license: str | None = field(
        default=None, metadata={"help": "as the hub writes it, such as apache-2.0"}
    )
    base_model: str | None = field(
        default=None, metadata={"help": "hub name of what it was made of; the run's by default"}
    )
    dataset: tuple[str, ...] = field(
        default=(), metadata={"help": "hub names of its text; the run's by default"}
    )
    language: str | None = field(default=None, metadata={"help": "of its text, such as en"})
    new_card: bool = field(
        default=False, metadata={"help": "replace a card that is there", "flag_only": True}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "show the files and the card, send and write nothing", "flag_only": True},
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if HUB_NAME.fullmatch(self.repo) is None:
            raise ValueError(
                f"{self.repo!r} is no name on the hub: that is OWNER/NAME, such as me/student-16, "
                "of letters, digits, '-', '_' and '.'"
            )
        for name in ("label", "teacher"):
            if getattr(self, name) is not None and self.evaluation is None:
                raise ValueError(f"--{name} is a name in an evaluation: give --evaluation FOLDER")
        if self.base_model is not None and not is_hub_name(self.base_model):
            raise ValueError(
                f"--base-model {self.base_model!r} is no name on the hub, which is OWNER/NAME"
            )
        for name in self.dataset:
            if not is_hub_name(name, dataset=True):
                raise ValueError(
                    f"--dataset {name!r} is no name on the hub, which is OWNER/NAME or one word"
                )


def push(settings: PushSettings) -> None:
    """Send a model to the hub, with a card made of its records: sdtt push FOLDER OWNER/NAME.

    The card is written into FOLDER as README.md, unless one is there. It tells how the model was
    made, as the run that it lies in has it, what --evaluation measured, and how to load it; where
    nothing was recorded it says so. Of a run's folder only the model's own files are sent.
    """
    folder = Path(check_folder(settings.folder))
    saved = read_saved(folder)  # refuses what is not whole
    if not saved.has_tokenizer:
        note(
            f"no tokenizer lies in {folder}, so none is sent: 'sdtt convert {folder} DEST "
            "--tokenizer NAME' puts one beside the model"
        )
    card = _card(settings, folder)
    files = sorted(
        {path.name for path in folder.iterdir() if path.is_file() and _is_sent(path.name)} | {CARD}
    )
    for name in files:
        size = len(card.encode()) if name == CARD else (folder / name).stat().st_size
        print(f"{size:>15,} bytes  {name}")
    if settings.dry_run:
        print(f"\n{card}")
        note(f"dry run: nothing was sent to {settings.repo}, and nothing written")
        return
    check_token()
    kept = (folder / CARD).is_file() and not settings.new_card
    with nullcontext() if kept else _written(folder / CARD, card):
        print(send(folder, settings.repo, files, settings.private, settings.revision))


@contextmanager
def _written(file: Path, card: str) -> Iterator[None]:
    """A card in its place; where what follows fails, what was there before."""
    before = file.read_bytes() if file.is_file() else None
    try:
        file.write_text(card, encoding="utf-8")
        yield
    except BaseException:
        if before is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(before)
        raise


def _is_sent(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in FILES)


def _card(settings: PushSettings, folder: Path) -> str:
    """The card that is there, or a new one."""
    if (folder / CARD).is_file() and not settings.new_card:
        asked = [name for name in OF_CARD if getattr(settings, name)]
        if asked:
            raise ValueError(
                f"{folder / CARD} is there and would be sent as it is, without --"
                f"{asked[0].replace('_', '-')}: add --new-card to make it anew, or leave that out"
            )
        note(f"{folder / CARD} is sent as it is; --new-card makes it anew")
        try:
            return (folder / CARD).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{folder / CARD} is no UTF-8 text at its byte {error.start}: save it as UTF-8, or "
                "add --new-card to make it anew"
            ) from error
    said = Said(
        settings.repo,
        license=settings.license,
        base_model=settings.base_model,
        datasets=settings.dataset,
        language=settings.language,
    )
    return model_card(folder, said, _measured(settings, folder))


def _measured(settings: PushSettings, folder: Path) -> Measured | None:
    """The evaluation, with the label under which it measured these very files."""
    from sdtt.evaluation.records import read_folder
    from sdtt.evaluation.subjects import fingerprint_of

    if settings.evaluation is None:
        return None
    label = settings.label
    if label is None:
        own = fingerprint_of(str(folder))
        records = read_folder(settings.evaluation)
        label = next((record.model for record in records if record.fingerprint == own), None)
        if label is None:
            names = ", ".join(dict.fromkeys(record.model for record in records))
            raise ValueError(
                f"{settings.evaluation} did not measure the files of {folder} (it has {names}); "
                "name the model by --label if only its config or its form has changed since"
            )
    return Measured(settings.evaluation, label, settings.teacher)


def check_token() -> None:
    """Refuses to go on where the hub will not be told who asks; before the card is written.

    Raises:
        ValueError: If no token is known.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise ValueError("no token of the hub is known: run 'hf auth login', or set HF_TOKEN")


def send(folder: Path, repo: str, files: list[str], private: bool, revision: str | None) -> str:
    """Uploads files of a folder in one commit, to a repository that is made if there is none.

    Returns:
        Where they are now.

    Raises:
        ValueError: If the hub is out of reach or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="sdtt")
    state = f"nothing of {repo} was changed"
    try:
        place = api.create_repo(repo, private=private or None, exist_ok=True)
        state = f"the repository {repo} is there, but nothing was sent to it: run it again"
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=place.repo_id,
            folder_path=folder,
            allow_patterns=files,
            revision=revision,
            commit_message="Upload a model with sdtt",
        )
    except HfHubHTTPError as error:
        reason = re.sub(r"\s+", " ", error.server_message or str(error))
        raise ValueError(f"the hub refuses to take {repo}: {reason}; {state}") from error
    except Exception as error:  # of whichever HTTP library this version of the hub's client has
        known = isinstance(error, OSError | JSONDecodeError)
        if not known and "http" not in type(error).__module__:
            raise
        reason = NO_JSON if isinstance(error, JSONDecodeError) else re.sub(r"\s+", " ", str(error))
        raise ValueError(f"cannot reach the hub ({reason}); {state}") from error
    return str(place)


COMMAND = command(push, example="sdtt push runs/student/students/16 me/student-16 --dry-run")
