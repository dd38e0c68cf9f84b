"""Inert stand-ins for objects of classes that are not loaded, and the plain values inside them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)  # known by identity, so that it may be the key of a dictionary
class Placeholder:
    """What a file says of a class, function or object that is not loaded. It does nothing.

    Attributes:
        name: Module and name of the class or function, joined by a dot.
        arguments: What it would have been made from.
        state: What it would have been told to remember, last, such as its attributes.
        entries: What would have been set in it by key.
        elements: What would have been appended to it.
        build: Of the few names that a file of tensors needs, what stands for calling them.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)
    build: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"


def plain(value: Any) -> Any:
    """The value with its placeholders replaced by the plain values in them, where there are any.

    A node of omegaconf becomes what it holds; a dictionary or list of another class a dictionary or
    list. Any other placeholder stays. What is shared stays shared, also with itself.

    Args:
        value: As read from a file.

    Raises:
        ValueError: If it is nested more deeply than Python can follow.
    """
    try:
        return _plain(value, {})
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _plain(value: Any, done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Placeholder):
        return _inside(value, done)
    if isinstance(value, dict):
        made: dict[Any, Any] = done.setdefault(id(value), {})
        made.update((_plain(key, done), _plain(each, done)) for key, each in value.items())
        return made
    if type(value) is list:
        elements: list[Any] = done.setdefault(id(value), [])
        elements.extend(_plain(each, done) for each in value)
        return elements
    if type(value) is tuple:
        done[id(value)] = value  # until it is known: one that holds itself keeps itself
        done[id(value)] = tuple(_plain(each, done) for each in value)
        return done[id(value)]
    return value


def _inside(placeholder: Placeholder, done: dict[int, Any]) -> Any:
    """What a placeholder holds, if it is a container or a node, else the placeholder."""
    held: Any = placeholder
    done[id(placeholder)] = placeholder  # as of a tuple
    if type(placeholder.state) is dict and "_content" in placeholder.state:  # omegaconf: a branch
        held = _plain(placeholder.state["_content"], done)
    elif type(placeholder.state) is dict and "_val" in placeholder.state:  # omegaconf: a leaf
        held = _plain(placeholder.state["_val"], done)
    elif placeholder.entries:
        held = _plain(placeholder.entries, done)
    elif placeholder.elements:
        held = _plain(placeholder.elements, done)
    done[id(placeholder)] = held
    return held
