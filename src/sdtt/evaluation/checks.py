"""What names something that there is not is refused before anything is drawn."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sdtt.evaluation.harness import check_tasks
from sdtt.evaluation.jobs import Group
from sdtt.evaluation.texts import text_source
from sdtt.models.checkpoints import check_causal


def check_names(
    groups: Sequence[Group],
    data_root: Path | None = None,
    on_progress: Callable[[str, int], None] = lambda _, __: None,
) -> None:
    """Refuses texts, tasks and judges that are not known, of whatever is to be measured.

    Args:
        groups: What is to be measured.
        data_root: Folder with copies of the named texts.
        on_progress: Told of (what is being read, how much more of it is).

    Raises:
        ValueError: If there is no such text or task (it names the nearest), or no such judge.
    """
    for name in dict.fromkeys(name for group in groups for name in _texts(group)):
        text_source(name, data_root)
    jobs = [job for group in groups for job in group.jobs]
    named = [job.settings.get(name) for job in jobs for name in ("judge", "scorer", "features")]
    for name in dict.fromkeys(name for name in named if name):
        check_causal(name)
    asked = [job.settings for job in jobs if job.metric == "tasks"]
    for folder in dict.fromkeys(settings["include_path"] for settings in asked):
        names = [settings["task"] for settings in asked if settings["include_path"] == folder]
        check_tasks(list(dict.fromkeys(names)), folder, on_progress)


def _texts(group: Group) -> list[str]:
    found = [group.subject.source] if group.subject.kind == "text" else []
    if group.draw is not None and group.draw.prompted is not None:
        found.append(group.draw.prompted["prompts"])
    found += [job.settings["text"] for job in group.jobs if job.metric == "bound"]
    return found + [job.settings["reference"] for job in group.jobs if job.metric == "readability"]
