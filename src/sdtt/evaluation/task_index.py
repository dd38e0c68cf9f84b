"""Which tasks the harness knows: its own, and those of a folder."""

import difflib
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


def harness_module(module: str) -> Any:
    """A module of the harness.

    Raises:
        ValueError: If the harness is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(
            f'tasks need the evaluation harness ({error}): pip install "sdtt[evaluation]"'
        ) from error


def find_tasks(
    tasks: Sequence[str],
    include_path: Path | str | None = None,
    *,
    include_defaults: bool = True,
    on_read: Callable[[str, int], None] = lambda _, __: None,
) -> tuple[Any, list[str]]:
    """The harness's manager of tasks, and the names that some names and patterns mean in it.

    The harness reads 14,000 files to know its own tasks, which takes 20 seconds. They are not read
    where a folder has all that are asked for, and only once in a process.

    Args:
        tasks: As they were asked for.
        include_path: A folder of tasks, as YAML; a name that is there is not the harness's own.
        include_defaults: Whether the harness's own tasks are looked through.
        on_read: Told of (what is being read, how much more of it is).

    Returns:
        The manager, which knows no other folder of ours, and each name once.

    Raises:
        ValueError: If the harness is not installed, the folder is missing, or there is no such
            task; it names the nearest.
    """
    manager = harness_module("lm_eval.tasks").TaskManager(include_defaults=False)
    index = manager.task_index
    own: dict[str, Any] = {}
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise ValueError(f"there is no folder of tasks {include_path}")
        own = _index_of(str(Path(include_path).resolve()))
    if include_defaults and not (tasks and set(tasks) <= set(own)):
        root = Path(harness_module("lm_eval.tasks").__file__).parent
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        words = f"index of the harness's tasks, {len(folders)} folders"
        for folder in folders:
            _merge(index, _index_of(str(folder)))
            on_read(words, 1)
    index.update(own)
    return manager, known_tasks(tasks, list(index))


def known_tasks(tasks: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names that some names and patterns mean, each once.

    Args:
        tasks: As they were asked for.
        known: All there are.

    Raises:
        ValueError: If there is none, or one of them is unknown; it names the nearest.
    """
    if not tasks:
        raise ValueError("there are no tasks to evaluate: name some, such as arc_easy")
    names: list[str] = []
    everything = set(known)
    match = harness_module("lm_eval.utils").pattern_match
    for task in tasks:
        meant = [task] if task in everything else sorted(match([task], known))
        if not meant:
            near = difflib.get_close_matches(task, known, n=3, cutoff=0.5)
            hint = f"near it: {', '.join(near)}" if near else "'lm_eval ls tasks' lists them"
            raise ValueError(f"the harness has no task {task!r}; {hint}")
        names += meant
    return list(dict.fromkeys(names))


@cache
def _index_of(folder: str) -> dict[str, Any]:
    """Name to definition, of the tasks, groups and tags of one folder."""
    manager = harness_module("lm_eval.tasks").TaskManager
    index: dict[str, Any] = manager(include_path=folder, include_defaults=False).task_index
    return index


def _merge(index: dict[str, Any], more: dict[str, Any]) -> None:
    """Adds names; the first definition of a name holds, and a tag has the tasks of all folders."""
    for name, entry in more.items():
        known = index.get(name)
        if known is None:
            index[name] = entry
        elif known.yaml_path is None and entry.yaml_path is None:  # a tag
            index[name] = type(entry)(name, entry.kind, None, tags=known.tags | entry.tags)
