"""A reader of pickles that calls nothing, imports nothing, and knows what it has not loaded.

A pickle is a program for a stack machine. Python's own machine imports what the program names and
calls what it is told to. This one has no such step: every name becomes a ``Placeholder``, and the
few that a file of tensors needs carry a function of ours. Instructions are split by the standard
library's ``pickletools``; one that is not in ``INSTRUCTIONS`` is refused.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import BufferedReader, BytesIO
from typing import Any, ClassVar

from sdtt.models.formats.pickle_names import (
    CONTAINERS,
    CodeInPickleError,
    check_keys,
    check_name,
)
from sdtt.models.formats.placeholders import Placeholder


def unpickle(
    stream: BytesIO | BufferedReader,
    names: Mapping[str, Any],
    persistent: Callable[[Any], Any],
    not_loaded: set[str],
) -> Any:
    """Reads one pickle, and leaves the stream behind it.

    Args:
        stream: Of the file, at the beginning of the pickle.
        names: What ``module.name`` stands for, in addition to ``CONTAINERS``: a function of ours
            for calling it, or a value that is no function.
        persistent: Gives the object of a persistent id.
        not_loaded: Takes the names that became mere placeholders.

    Returns:
        Containers, numbers, strings, what ``names`` and ``persistent`` give, and placeholders.

    Raises:
        CodeInPickleError: If it names something of the standard library that is neither in
            ``names`` nor ``HARMLESS``.
        ValueError: If it is no pickle, cut short, or does what no honest pickle does.
    """
    machine = _Machine({**CONTAINERS, **names}, persistent, not_loaded)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return machine.stack[-1]
    except CodeInPickleError:
        raise
    except _DAMAGE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"its pickle is damaged ({reason})") from error


_DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError,
    RuntimeError,  # torch's, of a tensor outside its storage
)  # fmt: skip
"""What wrong instructions make of the machine and of torch."""


class _Machine:
    """The stack machine: ``step`` by step, with no way to reach a Python object by its name."""

    VALUES: ClassVar[frozenset[str]] = frozenset(
        [
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
            *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
        ]
    )
    """Instructions that push their argument."""

    CONSTANTS: ClassVar[Mapping[str, Callable[[], Any]]] = {
        "NONE": lambda: None,
        "NEWTRUE": lambda: True,
        "NEWFALSE": lambda: False,
        "EMPTY_LIST": list,
        "EMPTY_DICT": dict,
        "EMPTY_SET": set,
        "EMPTY_TUPLE": tuple,
    }

    def __init__(
        self,
        names: Mapping[str, Any],
        persistent: Callable[[Any], Any],
        not_loaded: set[str],
    ) -> None:
        self.names, self.persistent, self.not_loaded = names, persistent, not_loaded
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies under each mark
        self.memo: dict[int, Any] = {}
        self.protocol = 0

    def step(self, instruction: str, argument: Any) -> None:
        if instruction in self.VALUES:
            self.stack.append(argument)
        elif instruction in self.CONSTANTS:
            self.stack.append(self.CONSTANTS[instruction]())
        elif instruction in INSTRUCTIONS:
            INSTRUCTIONS[instruction](self, argument)
        else:
            raise ValueError(f"the instruction {instruction}, which no file of tensors needs")

    # ---------------------------------------------------------------- the stack

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Any]:
        above, self.stack = self.stack, self.below.pop()
        return above

    def push(self, value: Any) -> None:
        self.stack.append(value)  # of the stack as it is once the value is known

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.above_mark()

    def pop_mark(self, _: Any) -> None:
        self.above_mark()

    def put(self, where: Any) -> None:
        self.memo[len(self.memo) if where is None else int(where)] = self.stack[-1]

    def get(self, where: Any) -> None:
        self.stack.append(self.memo[int(where)])

    def tuple_of(self, count: int) -> None:
        parts = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(parts)))

    def dict_of_marked(self, _: Any) -> None:
        self.push(dict(_pairs(self.above_mark())))

    def frozenset_of_marked(self, _: Any) -> None:
        elements = self.above_mark()
        check_keys(elements)
        self.push(frozenset(elements))

    # ---------------------------------------------------------------- containers

    def extend(self, elements: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder) and target.build is None:
            target.elements.extend(elements)
        elif type(target) is list:
            target.extend(elements)
        elif type(target) is set:
            check_keys(elements)
            target.update(elements)
        else:
            raise ValueError(f"elements for what is no list ({type(target).__name__})")

    def set_items(self, elements: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder) and target.build is None:
            target.entries.update(_pairs(elements))
        elif type(target) in (dict, OrderedDict):
            target.update(_pairs(elements))
        else:
            raise ValueError(f"items for what is no dictionary ({type(target).__name__})")

    # ---------------------------------------------------------------- names and their objects

    def find(self, module: str, name: str) -> None:
        if self.protocol < 3:  # which writes the names of Python 2: int is __builtin__.long
            renamed = IMPORT_MAPPING.get(module, module), name
            module, name = NAME_MAPPING.get((module, name), renamed)
        full = f"{module}.{name}"
        if full in self.names:
            known = self.names[full]
            self.stack.append(Placeholder(full, build=known) if callable(known) else known)
            return
        check_name(module, name)
        if module != "builtins":
            self.not_loaded.add(full)
        self.stack.append(Placeholder(full))

    def find_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("a name that is no string")
        self.find(module, name)

    def call(self, called: Any, arguments: Any) -> None:
        if not isinstance(called, Placeholder) or type(arguments) is not tuple:
            raise TypeError(f"a call of what is no name ({type(called).__name__})")
        if called.build is None:
            self.stack.append(Placeholder(called.name, arguments))
        else:
            self.stack.append(called.build(*arguments))

    def reduce(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        self.call(called, arguments)

    def reduce_with_keywords(self, _: Any) -> None:
        keywords, arguments, called = (self.stack.pop() for _ in range(3))
        if type(keywords) is not dict or (keywords and getattr(called, "build", None)):
            raise TypeError("a call with keywords")
        self.call(called, (*arguments, *keywords.items()))

    def call_marked(self, _: Any) -> None:
        called, *arguments = self.above_mark()
        self.call(called, tuple(arguments))

    def call_found(self, pair: str) -> None:
        arguments = self.above_mark()
        self.find(*_module_and_name(pair))
        self.call(self.stack.pop(), tuple(arguments))

    def remember(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Placeholder) and target.build is None:
            target.state = state
        elif type(target) is not OrderedDict:  # whose attributes, such as _metadata, go unread
            raise ValueError(f"a state for what has none ({type(target).__name__})")


def _pairs(elements: list[Any]) -> list[tuple[Any, Any]]:
    check_keys(elements[::2])
    return list(zip(elements[::2], elements[1::2], strict=True))


def _module_and_name(pair: str) -> tuple[str, str]:
    module, _, name = pair.partition(" ")
    return module, name


def _set_protocol(machine: _Machine, protocol: int) -> None:
    machine.protocol = protocol


INSTRUCTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _set_protocol,
    "FRAME": lambda _, __: None,
    "STOP": lambda _, __: None,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": lambda m, _: m.push(tuple(m.above_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "LIST": lambda m, _: m.push(m.above_mark()),
    "DICT": _Machine.dict_of_marked,
    "FROZENSET": _Machine.frozenset_of_marked,
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.above_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.above_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.above_mark()),
    "GLOBAL": lambda m, pair: m.find(*_module_and_name(pair)),
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.reduce_with_keywords,
    "OBJ": _Machine.call_marked,
    "INST": _Machine.call_found,
    "BUILD": _Machine.remember,
    "PERSID": lambda m, named: m.push(m.persistent(named)),
    "BINPERSID": lambda m, _: m.push(m.persistent(m.stack.pop())),
}
"""All that a pickle can tell the machine, but for values and constants."""
