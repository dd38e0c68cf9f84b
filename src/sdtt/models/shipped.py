"""The models that come with the package, by name, checked before they are used."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from sdtt.models.published import fetch_published, is_named

SHIPPED = ("student", "teacher", "caching", "judge")
"""A student, its teacher, a model that keeps a cache, and a causal one to judge them."""

IN_REPOSITORY = ("caching", "judge")
"""Those of them that no wheel holds: it has room for two."""

PAIR = Path(__file__).parents[1] / "pair"
"""Their folders, and the manifest of their files."""

MANIFEST = "manifest.json"


def shipped(name: str) -> Path:
    """The folder of a shipped model, once each of its files has the SHA-256 of the manifest.

    Args:
        name: One of ``SHIPPED``.

    Raises:
        FileNotFoundError: If a file is missing, or only the wheel is here and it has not the model.
        ValueError: If there is no shipped model of that name, or a file is damaged.
    """
    if name not in SHIPPED:
        raise ValueError(f"there is no shipped model {name!r}; there are {', '.join(SHIPPED)}")
    if name in IN_REPOSITORY and not (is_here(name) or _in_checkout()):
        raise FileNotFoundError(
            f"the shipped {name} lies in the repository of sdtt, not in the installed package: "
            f"give the folder src/sdtt/pair/{name} of a checkout, or a model of your own that "
            f"configs/recipes/pair_{name}.yaml trains"
        )
    for path, digest in _manifest(name).items():
        file = PAIR / path
        if not file.is_file():
            raise FileNotFoundError(f"the shipped {name} lacks its file {file}; {_way_out(file)}")
        if _sha256(file) != digest:
            raise ValueError(f"{file} of the shipped {name} is damaged; {_way_out(file)}")
    return PAIR / name


def is_here(name: str) -> bool:
    """Whether this installation has the folder of a shipped model, whole or not."""
    return (PAIR / name).is_dir()


def resolve(source: str | Path) -> str | Path:
    """The folder of a shipped or published model if that is what a source names, else the source.

    A name of ``SHIPPED`` or ``published.RELEASES`` means that model where no local path has that
    name. A published one is downloaded if it is not in the cache of the hub.

    Args:
        source: A folder, a name on the hub, or one of ``SHIPPED`` or ``RELEASES``.

    Raises:
        OSError, ValueError: As ``shipped`` and ``fetch_published`` do.
    """
    name = str(source)
    if name in SHIPPED and not Path(name).exists():
        return shipped(name)
    return fetch_published(name) if is_named(source) else source


def write_manifest(folder: Path = PAIR) -> Path:
    """Writes the SHA-256 of every file of the shipped models, as ``shipped`` checks them.

    Args:
        folder: Holds a folder for each name of ``SHIPPED``.

    Returns:
        The path of the manifest: JSON of path, relative to the folder, to hexadecimal digest.

    Raises:
        FileNotFoundError: If one of the models is not there.
    """
    digests: dict[str, str] = {}
    for name in sorted(SHIPPED):
        files = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        if not files:
            raise FileNotFoundError(f"there is no model in {folder / name}")
        digests |= {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    return folder / MANIFEST


def _manifest(name: str) -> Mapping[str, str]:
    """Path to digest, of the files of one model."""
    file = PAIR / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"the shipped models lack their {file}; {_way_out(file)}")
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        own = {path: listed[path] for path in listed if path.startswith(f"{name}/")}
    except (ValueError, TypeError, AttributeError):
        own = {}
    if not own:  # else an empty manifest would pass any files
        raise ValueError(f"{file} is damaged: it lists no file of {name}; {_way_out(file)}")
    return own


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _in_checkout() -> bool:
    return (PAIR.parents[2] / ".git").exists()  # a folder, or in a worktree a file


def _way_out(file: Path) -> str:
    if _in_checkout():
        return f"'git checkout -- {file}' brings it back, 'make pair' trains the models again"
    return "'pip install --force-reinstall sdtt' brings it back"
