"""Files that a reader meets whole or not at all."""

from collections.abc import Callable
from pathlib import Path


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name, of the same ending, and then renames it."""
    aside = path.with_name(f".{path.stem}.partial{path.suffix}")
    write(aside)
    aside.replace(path)
