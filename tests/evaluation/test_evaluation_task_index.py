import sys
from pathlib import Path

import pytest

from sdtt.evaluation import task_index
from sdtt.evaluation.task_index import find_tasks, known_tasks

pytest.importorskip("lm_eval", reason="pip install sdtt[evaluation]")


def defined(folder: Path, name: str, tag: str = "") -> None:
    """A task of that name in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"task: {name}\n" + (f"tag: {tag}\n" if tag else ""))


@pytest.fixture
def harness_tasks(tmp_path, monkeypatch):
    """A harness whose own tasks are three, in two folders, of which two share a tag."""
    import lm_eval.tasks

    root = tmp_path / "harness"
    defined(root / "a", "first", "both")
    defined(root / "b", "second", "both")
    defined(root / "b", "third")
    monkeypatch.setattr(lm_eval.tasks, "__file__", str(root / "__init__.py"))
    return root


def test_a_task_of_the_harness_is_found_beside_those_of_a_folder(harness_tasks, tmp_path):
    defined(tmp_path / "own", "mine")
    manager, names = find_tasks(["mine", "third"], tmp_path / "own")
    assert names == ["mine", "third"]
    assert manager.task_index["third"].yaml_path == harness_tasks / "b" / "third.yaml"


def test_a_task_of_the_folder_wins_over_the_harness(harness_tasks, tmp_path):
    del harness_tasks
    defined(tmp_path / "own", "third")
    manager, _ = find_tasks(["third", "first"], tmp_path / "own")
    assert manager.task_index["third"].yaml_path == tmp_path / "own" / "third.yaml"


def test_a_tag_has_the_tasks_of_all_folders(harness_tasks):
    del harness_tasks
    manager, _ = find_tasks(["both"])
    assert manager.task_index["both"].tags == {"first", "second"}


def test_reading_the_index_is_told_folder_by_folder(harness_tasks):
    del harness_tasks
    told = []
    find_tasks(["first"], on_read=lambda words, count: told.append((words, count)))
    assert told == [("index of the harness's tasks, 2 folders", 1)] * 2


def test_the_harness_is_not_read_where_a_folder_has_all_tasks(harness_tasks, tmp_path):
    del harness_tasks
    defined(tmp_path / "own", "mine")
    told = []
    manager, _ = find_tasks(["mine"], tmp_path / "own", on_read=lambda *each: told.append(each))
    assert (list(manager.task_index), told) == (["mine"], [])


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"there is no folder of tasks {tmp_path}/absent"):
        find_tasks(["mine"], tmp_path / "absent")


def test_a_pattern_means_the_tasks_that_match_it_each_once():
    known = ["arc_easy", "arc_challenge", "piqa"]
    assert known_tasks(["arc_easy", "arc*"], known) == ["arc_easy", "arc_challenge"]


def test_a_missing_harness_is_one_line_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.utils", None)
    with pytest.raises(ValueError, match=r'pip install "sdtt\[evaluation\]"'):
        task_index.known_tasks(["piqa"], ["piqa"])
