"""What a pickle may name: containers that are made, harmless names, and what counts as code."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sdtt.models.formats.placeholders import Placeholder

HARMLESS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "argparse": ("Namespace",),
        "builtins": ("bool", "float", "int", "object", "range", "slice", "str"),
        "collections": ("deque",),
        "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
        "decimal": ("Decimal",),
        "enum": ("Enum", "Flag", "IntEnum", "IntFlag", "StrEnum"),
        "fractions": ("Fraction",),
        "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath"),
        "pathlib._local": ("PosixPath", "PurePosixPath", "WindowsPath"),
        "types": ("SimpleNamespace",),
        "typing": ("Any", "Dict", "List", "Literal", "Optional", "Tuple", "Union"),
        "uuid": ("UUID",),
    }.items()
    for name in names
)
"""Names of the standard library that files of honest authors hold; placeholders, as all names."""


class CodeInPickleError(ValueError):
    """A pickle names code of Python's own library, which loading it would run."""


def check_name(module: str, name: str) -> None:
    """Refuses a name of the standard library that is not harmless, and what is no name at all.

    Nothing is imported to find out.

    Args:
        module: With dots.
        name: In it; with dots, of a nested class.

    Raises:
        CodeInPickleError: If it is code of the standard library, or lies behind some.
        ValueError: If nothing in Python can have that name.
    """
    full = f"{module}.{name}"
    if not all(part.isidentifier() for part in full.split(".")):
        raise ValueError("a name that nothing in Python has")
    # torch.os.system is os.system: what is on the way to a name counts as well
    on_the_way = {module.split(".")[0], *name.split(".")[:-1]}
    if full not in HARMLESS and not on_the_way.isdisjoint(sys.stdlib_module_names):
        raise CodeInPickleError(full)


def _bytes(text: str | bytes = b"", encoding: str = "latin1") -> bytes:
    """The bytes that protocols below 3 write as text."""
    if type(text) is bytes:
        return text
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def check_keys(keys: Iterable[Any]) -> None:
    """Refuses a tuple of tuples as a key or an element of a set.

    Python's hash goes down a tuple without counting, and ends the process where it is deep.

    Args:
        keys: What is to be hashed.

    Raises:
        ValueError: If there is one.
    """
    for key in keys:
        if isinstance(key, tuple) and any(isinstance(part, tuple) for part in key):
            raise ValueError("a key that is a tuple of tuples")


def _elements(make: Callable[[Any], Any]) -> Callable[..., Any]:
    def from_elements(elements: Any = ()) -> Any:
        if type(elements) not in (list, tuple, dict, set, OrderedDict):
            raise TypeError(f"a container of {type(elements).__name__}")
        if make in (set, frozenset):
            check_keys(elements)
        return make(elements)

    return from_elements


def _entries(make: Callable[[Any], Any]) -> Callable[..., Any]:
    def from_entries(entries: Any = ()) -> Any:
        pairs = _elements(list)(list(entries.items()) if isinstance(entries, dict) else entries)
        check_keys(key for key, _ in pairs)
        return make(pairs)

    return from_entries


CONTAINERS: Mapping[str, Callable[..., Any]] = {
    "_codecs.encode": _bytes,
    "builtins.bytearray": lambda *given: bytearray(_bytes(*given)),
    "builtins.bytes": _bytes,
    "builtins.complex": lambda real, imaginary: complex(float(real), float(imaginary)),
    "builtins.dict": _entries(dict),
    "builtins.frozenset": _elements(frozenset),
    "builtins.list": _elements(list),
    "builtins.set": _elements(set),
    "builtins.tuple": _elements(tuple),
    "collections.Counter": _entries(dict),
    "collections.OrderedDict": _entries(OrderedDict),
    "collections.defaultdict": lambda *_: {},  # of what it makes for a missing key no more is known
    "copyreg._reconstructor": lambda of, *rest: Placeholder(of.name, rest),
}
"""Containers, from the arguments with which pickles make them."""
