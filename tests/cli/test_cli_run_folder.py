"""Claims about the folder of a run: nothing is lost, nothing is mixed."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from sdtt.cli.options import command, resolved
from sdtt.cli.run_folder import (
    RUN_ENTRIES,
    RunFolder,
    check_same,
    prepare,
    save_config,
    saved_config,
)


def make_run(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("run.yaml", "metrics.jsonl", "config.json", "model.safetensors"):
        (folder / name).write_text("")
    for name in ("checkpoint-5", "students"):
        (folder / name).mkdir()
        (folder / name / "part").write_text("")
    (folder / "notes.txt").write_text("mine")


def test_a_missing_folder_is_made_with_its_parents(tmp_path):
    prepare(tmp_path / "a" / "b", resume=False, overwrite=False)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_with_foreign_files_only_is_taken(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    prepare(tmp_path, resume=False, overwrite=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("entry", [*RUN_ENTRIES[:2], "checkpoint-5", *RUN_ENTRIES[3:]])
def test_a_folder_that_holds_any_part_of_a_run_is_refused(tmp_path, entry):
    (tmp_path / entry).mkdir()
    with pytest.raises(ValueError, match=f"already holds a run .{entry}.; give --resume"):
        prepare(tmp_path, resume=False, overwrite=False)


def test_a_run_that_fails_before_its_first_update_gives_its_folder_up(tmp_path):
    for name, text in (("run.yaml", "a: 1\n"), ("metrics.jsonl", ""), ("notes.txt", "mine")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="already holds a run"):  # it may be going on
        prepare(tmp_path, resume=False, overwrite=False)
    RunFolder(tmp_path).withdraw()
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("entry", ["checkpoint-5", "metrics.jsonl"])
def test_a_run_that_has_done_anything_keeps_its_folder(tmp_path, entry):
    (tmp_path / "run.yaml").write_text("a: 1\n")
    if entry == "metrics.jsonl":
        (tmp_path / entry).write_text("{}\n")
    else:
        (tmp_path / entry).mkdir()
    RunFolder(tmp_path).withdraw()
    assert {path.name for path in tmp_path.iterdir()} == {"run.yaml", entry}


@pytest.mark.parametrize("text", ["a: [1\n b:", "- a\n"])
def test_a_damaged_record_of_a_run_is_named(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"run.yaml is damaged: .* start anew with --overwrite"):
        saved_config(tmp_path)


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    make_run(tmp_path)
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    (tmp_path / "checkpoint-9").symlink_to(elsewhere)
    prepare(tmp_path, resume=False, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]
    assert (elsewhere / "kept").exists()


def test_resume_leaves_the_run_as_it_is(tmp_path):
    make_run(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    prepare(tmp_path, resume=True, overwrite=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_there_is_nothing_to_resume_in_a_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match=f"nothing to resume in {tmp_path}"):
        prepare(tmp_path, resume=True, overwrite=False)


def test_one_command_starts_a_run_and_goes_on_with_it(tmp_path):
    assert not RunFolder(tmp_path, auto_resume=True).resume
    make_run(tmp_path)
    assert RunFolder(tmp_path, auto_resume=True).resume


def test_what_a_kill_left_before_the_config_was_saved_is_gone_on_with(tmp_path):
    (tmp_path / "run.yaml.partial").write_text("")
    run = RunFolder(tmp_path, auto_resume=True)
    run.open({"rounds": 5}, verb="distill")
    assert (tmp_path / "run.yaml").is_file()


def test_auto_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        RunFolder(tmp_path, auto_resume=True, overwrite=True)


def test_a_run_under_another_config_is_refused_with_the_flag_that_lets_it_through(tmp_path):
    save_config(tmp_path, {"rounds": 5, "seed": 1}, verb="distill")
    with pytest.raises(ValueError, match=r"--override-on-resume rounds,seed$"):
        check_same(tmp_path, {"rounds": 6, "seed": 2})


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="--resume and --overwrite exclude each other"):
        prepare(tmp_path, resume=True, overwrite=True)
    with pytest.raises(ValueError, match="--resume and --overwrite exclude each other"):
        RunFolder(tmp_path, resume=True, overwrite=True)


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_path_through_a_file_is_refused_with_the_name_of_the_file(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=f"cannot be a folder: {file} is a file"):
        prepare(file / below, resume=False, overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_found_before_the_run(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        prepare(tmp_path, resume=False, overwrite=False)


def test_a_folder_where_no_file_can_be_made_is_found_before_the_run():
    kernel_folder = Path("/proc/self")
    if not kernel_folder.is_dir():
        pytest.skip("this system has no /proc")
    with pytest.raises(OSError, match=str(kernel_folder)):
        prepare(kernel_folder, resume=False, overwrite=False)


def test_only_the_first_of_many_processes_touches_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    make_run(tmp_path)
    prepare(tmp_path, resume=False, overwrite=True)
    save_config(tmp_path, {"rounds": 5}, verb="distill")
    assert (tmp_path / "run.yaml").read_text() == ""


# ---------------------------------------------------------------- run.yaml


def test_the_saved_config_names_version_and_verb_and_keeps_its_order(tmp_path):
    save_config(tmp_path, {"rounds": 5, "data": "d"}, verb="distill")
    first, second, *rest = (tmp_path / "run.yaml").read_text().splitlines()
    assert first.startswith("# sdtt ")
    assert second == "# sdtt distill --config run.yaml"
    assert rest == ["rounds: 5", "data: d"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.yaml"]


def test_a_run_under_another_config_is_not_resumed_and_the_keys_are_named(tmp_path):
    save_config(tmp_path, {"rounds": 5, "seed": 1, "output": "a", "decay": 0.5}, verb="distill")
    now = {"rounds": 6, "seed": 1, "output": "b", "weight_decay": 0.1}
    with pytest.raises(ValueError, match="cannot resume") as caught:
        check_same(tmp_path, now, may_differ={"output"})
    assert (
        "(rounds: 5 in the run, 6 now; decay: 0.5 in the run, '(not given)' now; "
        "weight_decay: '(not given)' in the run, 0.1 now)"
    ) in str(caught.value)


def test_an_option_that_a_run_did_not_know_hinders_it_only_if_it_is_given(tmp_path):
    save_config(tmp_path, {"rounds": 5}, verb="distill")
    check_same(tmp_path, {"rounds": 5, "attention": None})
    with pytest.raises(ValueError, match="attention: '\\(not given\\)' in the run"):
        check_same(tmp_path, {"rounds": 5, "attention": "reveal_causal"})


def test_keys_that_may_differ_do_not_hinder_a_resumed_run(tmp_path):
    make_run(tmp_path)
    save_config(tmp_path, {"rounds": 5, "save_steps": 10}, verb="distill")
    run = RunFolder(tmp_path, resume=True)
    run.open({"rounds": 5, "save_steps": 20}, verb="distill", may_differ={"save_steps"})
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["save_steps"] == 20


def test_a_refused_resume_changes_nothing(tmp_path):
    save_config(tmp_path, {"rounds": 5}, verb="distill")
    with pytest.raises(ValueError, match="rounds: 5 in the run, 6 now"):
        RunFolder(tmp_path, resume=True).open({"rounds": 6}, verb="distill")
    assert yaml.safe_load((tmp_path / "run.yaml").read_text()) == {"rounds": 5}


@dataclass(frozen=True)
class Settings:
    """Values that YAML could take for something else."""

    prompt: str = field(default="no", metadata={"help": "text"})
    note: str | None = field(default="null", metadata={"help": "text"})
    rate: float = field(default=6e-5, metadata={"help": "rate"})
    top_p: float | None = field(default=None, metadata={"help": "share"})
    steps: tuple[int, ...] = field(default=(4, 8), metadata={"help": "steps"})
    ends: tuple[str, ...] = field(default=(" a, b ", "~"), metadata={"help": "texts"})
    limit: float = field(default=float("inf"), metadata={"help": "seconds"})


def test_the_saved_config_is_read_back_by_the_config_flag(invoke, tmp_path):
    seen = []

    def fake(settings: Settings, run: RunFolder) -> None:
        """Saves its config."""
        seen.append(settings)
        run.open(resolved(settings, run), verb="fake")

    first, second = tmp_path / "first", tmp_path / "second"
    invoke(command(fake), "fake", "--output", str(first), "--prompt", "1: é\n#", "--steps", "16")
    again = ["--config", str(first / "run.yaml"), "--output", str(second)]
    result = invoke(command(fake), "fake", *again)
    assert result.exit_code == 0, result.output
    assert seen[0] == seen[1] == Settings(prompt="1: é\n#", steps=(16,))
    assert "overwrite" not in (second / "run.yaml").read_text()
