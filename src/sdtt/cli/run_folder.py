"""The folder of a run: one run a folder, with its config beside it in `run.yaml`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from sdtt.cli.console import is_first_process, version_of

RUN_FILE = "run.yaml"
RUN_ENTRIES = (
    RUN_FILE,
    "metrics.jsonl",
    "checkpoint-*",
    "students",
    "samples.jsonl",
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "ema",
    "report.md",
    "metrics.json",
    "ladder.png",
    "faults",
    "*.part",  # what a kill left in mid-save
    "run.yaml.partial",
)


@dataclass(frozen=True)
class RunFolder:
    """Where a verb that trains writes, and what to do with a run that is there already."""

    output: Path = field(metadata={"help": "folder that the run is written to"})
    resume: bool = field(
        default=False,
        metadata={"help": "go on with the run in --output", "flag_only": True},
    )
    auto_resume: bool = field(
        default=False,
        metadata={
            "help": "go on with the run in --output if it holds one, else start it: "
            "one command for a supervisor that starts it again and again",
            "flag_only": True,
        },
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "delete the run in --output first", "flag_only": True},
    )

    def __post_init__(self) -> None:
        """Refuses contradictions; from here on `resume` says it all."""
        _refuse_both(self.resume or self.auto_resume, self.overwrite)
        if self.auto_resume and run_entries(self.output):
            object.__setattr__(self, "resume", True)

    def open(
        self,
        config: Mapping[str, object],
        *,
        verb: str,
        may_differ: Collection[str] = (),
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Makes the folder ready and saves the config; to be called when all else is right.

        Args:
            config: the resolved config, of `options.resolved`.
            verb: the verb that runs.
            may_differ: keys that a resumed run may change (`output` always may).
            check: called before the record of the run changes; it may refuse too.

        Raises:
            ValueError: the folder holds a run, or none to resume, or one with another config.
            OSError: it cannot be written to.
        """
        if self.resume:
            check_same(self.output, config, may_differ={"output", *may_differ})
        check()
        prepare(self.output, resume=self.resume, overwrite=self.overwrite)
        save_config(self.output, config, verb=verb)

    def withdraw(self) -> None:
        """Gives the folder up, where a run failed before its first update: another may have it."""
        entries = run_entries(self.output)
        if is_first_process() and all(map(_before_update, entries)):
            for entry in entries:
                entry.unlink()


def prepare(output: Path, *, resume: bool, overwrite: bool, resumable: bool = True) -> None:
    """Makes an output folder ready: made if missing, written to on trial, free of another run.

    Only the first process of a run acts, so that the others do not take its files for an older run.

    Args:
        output: the folder.
        resume: a run must be there.
        overwrite: the entries of a run are deleted (`RUN_ENTRIES` only; all else stays).
        resumable: whether the verb has --resume.

    Raises:
        ValueError: it holds a run and neither was asked, it holds none to resume, both were asked,
            or it is a file.
        OSError: it cannot be written to.
    """
    _refuse_both(resume, overwrite)
    if not is_first_process():
        return
    check_free(output, resume=resume, overwrite=overwrite, resumable=resumable)
    entries = run_entries(output) if overwrite else []
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output):  # found now, not at the first checkpoint
        pass
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def check_free(output: Path, *, resume: bool, overwrite: bool, resumable: bool = True) -> None:
    """Refuses an output folder that `prepare` would refuse, and changes nothing.

    Raises:
        ValueError: as `prepare` does.
    """
    for path in (output, *output.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(
                f"{output} cannot be a folder: {path} is a file; choose another --output"
            )
    entries = run_entries(output)
    if resume and not entries:
        raise ValueError(
            f"nothing to resume in {output}: it holds no run; leave --resume out to start one"
        )
    if entries and not (resume or overwrite):
        names = ", ".join(entry.name for entry in entries[:3])
        go_on = "--resume to go on with it, " if resumable else ""
        raise ValueError(
            f"{output} already holds a run ({names}); "
            f"give {go_on}--overwrite to delete it, or another --output"
        )


def run_entries(output: Path) -> list[Path]:
    """The entries of a folder that belong to a run.

    Args:
        output: the folder, which may be missing.

    Returns:
        Their paths, in the order of `RUN_ENTRIES`.
    """
    return [entry for pattern in RUN_ENTRIES for entry in sorted(output.glob(pattern))]


def _before_update(entry: Path) -> bool:
    """Whether an entry is of a run that failed before its first update: its config, no record."""
    return entry.is_file() and (entry.name == RUN_FILE or entry.stat().st_size == 0)


def _refuse_both(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: give one of them")


def save_config(output: Path, config: Mapping[str, object], *, verb: str) -> None:
    """Writes `run.yaml`, aside first and then renamed; `--config run.yaml` reads it back.

    Args:
        output: an existing folder.
        config: plain values, written in their order.
        verb: the verb that ran, for the header.
    """
    if not is_first_process():
        return
    header = f"# sdtt {version_of('sdtt')}\n# sdtt {verb} --config {RUN_FILE}\n"
    body = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    aside = output / f"{RUN_FILE}.partial"
    aside.write_text(header + body, encoding="utf-8")
    aside.replace(output / RUN_FILE)


def saved_config(output: Path) -> dict[str, object]:
    """The `run.yaml` of a folder; nothing where it has none."""
    file = output / RUN_FILE
    try:
        found = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.is_file() else {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is damaged: no YAML; start anew with --overwrite") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged: it holds no options; start anew with --overwrite")
    return found


def check_same(
    output: Path, config: Mapping[str, object], *, may_differ: Collection[str] = ()
) -> None:
    """Refuses to resume a run under another config.

    Args:
        output: the folder of the run.
        config: the resolved config of this call.
        may_differ: keys that are not compared.

    Raises:
        ValueError: naming each key that differs, with the value in the run and the value now.
    """
    file, saved = output / RUN_FILE, saved_config(output)
    if not (is_first_process() and file.is_file()):
        return
    keys = [
        key
        for key in (*saved, *(key for key in config if key not in saved))
        if key not in may_differ
    ]
    absent = "(not given)"
    changed = [key for key in keys if saved.get(key) != config.get(key)]  # None is not given
    changes = [
        f"{key}: {saved.get(key, absent)!r} in the run, {config.get(key, absent)!r} now"
        for key in changed
    ]
    if changes:
        raise ValueError(
            f"cannot resume {output} with another config ({'; '.join(changes)})\n"
            f"give the values of {file}, or name what may differ: "
            f"--override-on-resume {','.join(changed)}"
        )
