"""The English text that every Python carries: documentation of its own standard library."""

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_TESTS = {"test", "tests", "idle_test"}
_OTHERS = {"site-packages", "dist-packages", "__pycache__"}
_TABLES = {"encodings", "pydoc_data"}  # generated: long to parse, and little English in them
_SKIPPED = _TESTS | _OTHERS | _TABLES
_BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")


def python_docs(root: Path | None = None) -> Iterator[str]:
    """Yield the docstrings of the standard library, a document a module, then the help topics.

    A module's document is the docstrings of the module, its classes and functions in the order of
    its source, each cleaned as `inspect.cleandoc` does, with blank lines between them. The topics
    are those of `help()` (sections of the language reference), in the order of their names.

    Args:
        root: The folder of the library; that of the running Python if None.

    Yields:
        Some 630 texts, 2.3 MB in all (CPython 3.11); it varies with the version of Python.
    """
    from pydoc_data.topics import topics

    for path in module_paths(root):
        text = module_docs(path.read_bytes())
        if text:
            yield text
    for name in sorted(topics):
        yield topics[name]


def module_paths(root: Path | None = None) -> list[Path]:
    """List the modules of the standard library in sorted order, without tests and site-packages."""
    root = root or Path(sysconfig.get_path("stdlib"))
    paths: list[Path] = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _SKIPPED]
        paths += [Path(folder, name) for name in files if name.endswith(".py")]
    return sorted(paths)


def module_docs(source: bytes) -> str:
    """Join the docstrings of a module by blank lines; "" if it has none or does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old modules hold escapes that Python frowns on
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    return "\n\n".join(filter(None, _docstrings(tree)))


def _docstrings(node: ast.AST) -> Iterator[str | None]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node)
    # only statements hold definitions: to leave expressions aside is five times as fast
    for name in _BLOCKS:
        children = getattr(node, name, None)
        if isinstance(children, list):
            for child in children:
                yield from _docstrings(child)
