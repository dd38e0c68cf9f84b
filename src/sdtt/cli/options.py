"""Flags and config files, made from the fields of dataclasses: an option is written once.

The text of a flag and the text of a YAML value are read by the same reader, chosen by the type of
the field, so that `--learning-rate 6e-5` and `learning_rate: 6e-5` mean the same. Precedence:
flag > file > default of the field. A path in a file is relative to the working folder, as it is in
a flag. Several values are joined by commas, or the flag is repeated; of a flag that takes one value
the last counts, so that those of a script can be overridden.

Metadata of a field: `help` (one line, with the unit) and, where wanted, `flag_only=True` (refused
in a file, never recorded) or `positional=True` (given as words without a flag, a tuple
as several).
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass
from enum import Enum
from pathlib import Path
from typing import Generic, Literal, TypeVar, cast

import typer
import yaml
from rich.markup import escape
from typer.core import TyperCommand

Raw = str | list[str] | None  # a text, the texts of a YAML list, or YAML's null
Config = TypeVar("Config")

RESERVED = frozenset({"config", "debug", "help", "version"})  # the machinery's own flags


@dataclass(frozen=True)
class Kind:
    """What a field takes: its name in help and in errors, and its reader (ValueError if wrong)."""

    label: str
    expected: str
    read: Callable[[Raw], object]
    choices: tuple[str, ...] = ()
    is_sequence: bool = False


@dataclass(frozen=True)
class Option:
    """One field as an option; `origin` is the library class that declares it, "" for our own."""

    name: str
    kind: Kind
    help: str
    default: object
    origin: str = ""
    flag_only: bool = False
    positional: bool = False

    @property
    def flag(self) -> str:
        """The field as it is typed: --num-samples; RUNS where it is words without a flag."""
        return self.name.upper() if self.positional else "--" + self.name.replace("_", "-")


@dataclass(frozen=True)
class Given(Generic[Config]):
    """The given values of a config that the verb builds itself, because it supplies some fields.

    Attributes:
        config_type: the class to build.
        values: field name to value, of the flags and the file only; no defaults.
        withheld: fields that are no options of this verb.
    """

    config_type: type[Config]
    values: Mapping[str, object]
    withheld: frozenset[str] = frozenset()

    def make(self, **supplied: object) -> Config:
        """Builds the config; `supplied` wins over what was given.

        Args:
            **supplied: field values that the verb decides.

        Returns:
            The config, validated by its own class.
        """
        return self.config_type(**{**self.values, **supplied})


# ---------------------------------------------------------------- from types to readers


def _scalar(label: str, expected: str, parse: Callable[[str], object]) -> Kind:
    def read(raw: Raw) -> object:
        if not isinstance(raw, str):
            raise ValueError
        return parse(raw)

    return Kind(label, expected, read)


def _number(text: str) -> float:
    number = float(text.replace(".inf", "inf"))  # as YAML writes it
    if math.isnan(number):
        raise ValueError
    return number


def _truth(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


def _path(text: str) -> Path:
    if not text:  # Path("") would be the working folder
        raise ValueError
    return Path(text).expanduser()


SCALARS = {
    bool: _scalar("bool", "true or false", _truth),
    int: _scalar("int", "a whole number", int),
    float: _scalar("float", "a number", _number),
    Path: _scalar("path", "a path", _path),
    str: _scalar("text", "text", str),
}


def _choice(values: Mapping[str, object]) -> Kind:
    def parse(text: str) -> object:
        if text not in values:
            raise ValueError
        return values[text]

    kind = _scalar("name", f"one of {', '.join(values)}", parse)
    return dataclasses.replace(kind, choices=tuple(values))


def _sequence(element: Kind, make: Callable[[Iterable[object]], object]) -> Kind:
    def read(raw: Raw) -> object:
        if raw is None:
            raise ValueError
        texts = [part.strip() for part in raw.split(",")] if isinstance(raw, str) else raw
        return make(element.read(text) for text in texts)

    expected = f"{element.expected}, or several joined by commas"
    return Kind(f"{element.label},...", expected, read, is_sequence=True)


def _union(members: tuple[object, ...]) -> Kind | None:
    """The first member that reads the text, narrowest first; `Enum | str` takes enum texts."""
    enums = [m for m in members if isinstance(m, type) and issubclass(m, Enum)]
    if enums and str in members:
        return _union((*(m for m in members if m not in (*enums, str)), Literal[*_texts(enums)]))
    order = {bool: 0, int: 1, float: 2, Path: 4, str: 5}
    sortable = sorted(members, key=lambda member: order.get(cast("type", member), 3))
    kinds = [kind for kind in map(kind_of, sortable) if kind is not None]
    optional = types.NoneType in members
    textual = str in members or Path in members
    if not kinds or (len(kinds) == 1 and not optional):
        return kinds[0] if kinds else None

    def read(raw: Raw) -> object:
        if optional and (raw is None or (not textual and raw in ("none", "null"))):
            return None
        single = isinstance(raw, str) and "," not in raw and len(kinds) > 1
        for kind in kinds:
            try:
                if not (single and kind.is_sequence):
                    return kind.read(raw)
            except ValueError:
                continue
        raise ValueError

    return Kind(
        "|".join(kind.label for kind in kinds),
        " or ".join(kind.expected for kind in kinds),
        read,
        choices=kinds[0].choices if len(kinds) == 1 else (),
        is_sequence=any(kind.is_sequence for kind in kinds),
    )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _texts(enums: Iterable[type[Enum]]) -> tuple[str, ...]:
    return tuple(str(member.value) for enum in enums for member in enum)


def kind_of(annotation: object) -> Kind | None:
    """The kind of a type.

    Args:
        annotation: int, float, str, bool, Path, a Literal, an Enum, tuple[T, ...], list[T], or a
            union of these.

    Returns:
        The kind; None where no flag can hold such a value. Of a union, members that no flag can
        hold are left out.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is Literal:
        return _choice({_word(value): value for value in arguments})
    if origin is list or (origin is tuple and arguments[1:] == (...,)):
        element = kind_of(arguments[0])
        return _sequence(element, origin) if element else None
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, Enum):
        return _choice({str(member.value): member for member in annotation})
    return SCALARS.get(annotation)


# ---------------------------------------------------------------- from classes to options


def options_of(config_type: type, withhold: Collection[str] = ()) -> tuple[Option, ...]:
    """The options of a dataclass, in the order of its fields.

    A field declared by another package (as those of `transformers.TrainingArguments` in a subclass
    of ours) is an option where a flag can hold its type; a field of our own must have help and a
    type that a flag can hold.

    Args:
        config_type: a dataclass.
        withhold: names of fields that are no options.

    Returns:
        One option a field.

    Raises:
        TypeError: a field of our own without help or of a type that no flag can hold.
    """
    hints = typing.get_type_hints(config_type)
    options = []
    for field in dataclasses.fields(config_type):
        origin = _origin(config_type, field.name)
        if not field.init or field.name in withhold or (origin and field.name in RESERVED):
            continue
        kind, line = kind_of(hints[field.name]), field.metadata.get("help", "")
        where = f"{config_type.__name__}.{field.name}"
        if not origin and (kind is None or field.name in RESERVED):
            raise TypeError(
                f"{where} cannot be a flag: its type or name is not taken; rename or withhold it"
            )
        if not origin and not line:
            raise TypeError(
                f"{where} has no help: field(metadata={{'help': 'one line with its unit'}})"
            )
        if kind is not None:
            marks = (bool(field.metadata.get(mark)) for mark in ("flag_only", "positional"))
            options.append(Option(field.name, kind, line, _default(field), origin, *marks))
    return tuple(options)


def _origin(config_type: type, name: str) -> str:
    """The library class that declares a field, "" if it is in the package of the config."""
    owner = next(base for base in config_type.__mro__ if name in inspect.get_annotations(base))
    own_package, package = (each.__module__.partition(".")[0] for each in (config_type, owner))
    return "" if package == own_package else f"{package}.{owner.__name__}"


def _default(field: dataclasses.Field[object]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def resolved(*configs: object) -> dict[str, object]:
    """What a run was started with, as plain values that `--config` reads back.

    Args:
        *configs: config instances, and `Given` ones: of these our own fields, and the inherited
            ones that were given.

    Returns:
        Key to number, text, truth, list or None, in the order of the fields; without flag-only
        fields and secrets.
    """
    record: dict[str, object] = {}
    for config in configs:
        if isinstance(config, Given):
            options, values = options_of(config.config_type, config.withheld), config.values
            inherited = {name for name in values if not name.endswith("_token")}
        else:
            options, values, inherited = options_of(type(config)), vars(config), set()
        for option in options:
            if not option.flag_only and (not option.origin or option.name in inherited):
                record[option.name] = _plain(values.get(option.name, option.default))
    return record


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(element) for element in value]
    return str(value) if isinstance(value, Path) else value


# ---------------------------------------------------------------- from texts to values


def read_config(file: Path) -> dict[str, tuple[Raw, int]]:
    """The keys of a YAML file, their texts and their lines; types are the fields' business.

    Args:
        file: a YAML file of `key: value` lines; a dash in a key counts as an underscore.

    Returns:
        Key to (text, line number from 1).

    Raises:
        ValueError: no such file, no YAML, not a flat mapping, or a key that stands twice.
    """
    if not file.is_file():
        raise ValueError(f"--config {file}: there is no such file")
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"{file}{line}: not valid YAML ({getattr(error, 'problem', None) or error})"
        ) from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{file} must hold lines of 'key: value', got a list or one value")
    entries: dict[str, tuple[Raw, int]] = {}
    for key, value in root.value:
        line = key.start_mark.line + 1
        name = str(key.value).replace("-", "_")
        if name in entries:
            raise ValueError(
                f"{file}, line {line}: key '{key.value}' stands twice, "
                f"first on line {entries[name][1]}"
            )
        entries[name] = (_raw(value, f"'{key.value}' in {file}, line {line},"), line)
    return entries


def _raw(node: yaml.Node, where: str) -> Raw:
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == "tag:yaml.org,2002:null" else str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(
        isinstance(item, yaml.ScalarNode) for item in node.value
    ):
        return [str(item.value) for item in node.value]
    raise ValueError(f"{where} must be one value or a list of values, got something nested")


def resolve(
    options: Iterable[Option], flags: Mapping[str, Raw], file: Path | None
) -> dict[str, object]:
    """The explicitly given values, a flag before the file.

    Args:
        options: the options of the verb.
        flags: name to text, of the flags that were given; words without a flag are a list.
        file: the file of `--config`, or None.

    Returns:
        Name to value, without defaults.

    Raises:
        ValueError: an unknown key, a wrong value, or a required option that is missing.
    """
    known = {option.name: option for option in options}
    values = {}
    for key, (raw, line) in (read_config(file) if file else {}).items():
        if key not in known:
            raise ValueError(f"unknown key '{key}' in {file}{_instead(key, known.values())}")
        if known[key].flag_only:
            raise ValueError(
                f"'{key}' cannot stand in {file}: it is a flag only ({known[key].flag})"
            )
        values[key] = _read(known[key].kind, raw, f"'{key}' in {file}, line {line},")
    for name, text in flags.items():
        values[name] = _read(known[name].kind, text, known[name].flag)
    missing = [o.flag for o in known.values() if o.default is MISSING and o.name not in values]
    if missing:
        be, them, form = ("are", "them", "flags") if missing[1:] else ("is", "it", "a flag")
        form = form if missing[0].startswith("--") else "words"
        raise ValueError(
            f"{', '.join(missing)} {be} required (give {them} as {form} or in the --config file)"
        )
    return values


def _read(kind: Kind, raw: Raw, where: str) -> object:
    try:
        return kind.read(raw)
    except ValueError:
        got = "nothing" if raw is None else repr(raw)
        near = difflib.get_close_matches(raw, kind.choices, n=1) if isinstance(raw, str) else []
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"{where} must be {kind.expected}, got {got}{hint}") from None


def _instead(key: str, options: Collection[Option]) -> str:
    near = difflib.get_close_matches(key, [option.name for option in options], n=1)
    if near:
        return f"; did you mean '{near[0]}'?"
    own = [option.name for option in options if not (option.origin or option.flag_only)]
    return f"; the keys are {', '.join(own)}"


# ---------------------------------------------------------------- from a function to a command


@dataclass(frozen=True)
class _Part:
    """One parameter of a verb function: a config class and its options."""

    parameter: str
    config_type: type
    is_given: bool
    withheld: frozenset[str]
    options: tuple[Option, ...]

    def build(self, values: Mapping[str, object]) -> object:
        own = {option.name: values[option.name] for option in self.options if option.name in values}
        return (
            Given(self.config_type, own, self.withheld)
            if self.is_given
            else self.config_type(**own)
        )


def command(
    function: Callable[..., None],
    *,
    withhold: Collection[str] = (),
    example: str = "",
    unsaid: str = "",
) -> TyperCommand:
    """A typer command from a verb function.

    Args:
        function: each parameter is annotated with a dataclass (the function receives an instance)
            or with `Given[C]` (it receives the given values of C and builds C itself). Its name is
            the verb, its docstring the help.
        withhold: fields of the `Given` classes that are no options: the verb supplies them.
        example: a command line shown under the help.
        unsaid: what decides the options of the `Given` classes where they are not given, before
            their defaults do; in words, for the help.

    Returns:
        The command, with `--config` and `--debug` added.

    Raises:
        TypeError: a parameter that is no dataclass, or one field name in two classes.
    """
    parts = _parts(function, frozenset(withhold))
    options = {option.name: option for part in parts for option in part.options}

    def callback(**given: object) -> None:
        file = cast("Path | None", given.pop("config"))
        given.pop("debug")  # read by `sdtt.cli`, before there is a verb
        flags = {n: _typed(options[n], t) for n, t in given.items() if t not in (None, [])}
        values = resolve(options.values(), flags, file)
        function(**{part.parameter: part.build(values) for part in parts})

    parameters = _typer_parameters(parts, unsaid)
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(
        function.__name__,
        help=escape((inspect.getdoc(function) or "").partition("\n\nArgs:")[0]),
        options_metavar=" ".join((*_required(options.values()), "[OPTIONS]")),
        epilog=escape(_epilog(options.values(), example)),
        context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
    )(callback)
    return cast("TyperCommand", typer.main.get_command(app))


def _typed(option: Option, given: object) -> Raw:
    """The text of a flag; one that takes several values and is given again adds to them."""
    if not isinstance(given, list):
        return str(given)
    return given if option.positional else ",".join(given)


def _parts(function: Callable[..., None], withhold: frozenset[str]) -> tuple[_Part, ...]:
    hints = typing.get_type_hints(function)
    parts: list[_Part] = []
    owners: dict[str, str] = {}
    for parameter in inspect.signature(function).parameters:
        annotation = hints.get(parameter)
        is_given = typing.get_origin(annotation) is Given
        config_type = typing.get_args(annotation)[0] if is_given else annotation
        if not (isinstance(config_type, type) and dataclasses.is_dataclass(config_type)):
            raise TypeError(
                f"{function.__name__}({parameter}) must be annotated with a dataclass "
                "or with Given[dataclass]"
            )
        withheld = withhold if is_given else frozenset[str]()
        options = options_of(config_type, withheld)
        for option in options:
            other = owners.setdefault(option.name, config_type.__name__)
            if other != config_type.__name__:
                raise TypeError(
                    f"field '{option.name}' is in {other} and {config_type.__name__}: withhold one"
                )
        parts.append(_Part(parameter, config_type, is_given, withheld, options))
    return tuple(parts)


def _typer_parameters(parts: tuple[_Part, ...], unsaid: str) -> list[inspect.Parameter]:
    """Every flag is text without a default, so that the given ones can be told from the others."""
    parameters = []
    for number, part in enumerate(parts):
        panel = part.parameter.replace("_", " ").capitalize() if number else None
        for option in part.options:
            text = list[str] | None if option.kind.is_sequence else str | None
            if option.positional:
                parameters.append(_parameter(option.name, text, _argument(option)))
                continue
            is_switch = option.kind.label == "bool"
            has_negation = is_switch and not (option.flag_only and option.default is False)
            info = typer.Option(
                None,
                option.flag + (f"/--no-{option.flag[2:]}" if has_negation else ""),
                help=escape(_help(option, unsaid if part.is_given else "")),
                metavar=None if is_switch else f"<{option.kind.label}>",
                hidden=bool(option.origin),
                rich_help_panel=panel,
            )
            annotation = bool | None if is_switch else text
            parameters.append(_parameter(option.name, annotation, info))
    file = typer.Option(
        None, "--config", help="YAML file of options; flags win over it", metavar="<path>"
    )
    debug = typer.Option(False, "--debug", help="show the full traceback of an error")
    return [*parameters, _parameter("config", Path | None, file), _parameter("debug", bool, debug)]


def _argument(option: Option) -> object:
    return typer.Argument(None, help=escape(_help(option)), metavar=option.flag)


def _parameter(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _help(option: Option, unsaid: str = "") -> str:
    """The line of help, and in brackets what else is known of the option."""
    plain = _plain(option.default)
    notes = [option.kind.expected] if option.kind.choices else []
    shown = ""
    if isinstance(plain, bool):
        shown = "on" if plain else "off"
    elif plain is not MISSING and plain not in (None, []):
        shown = ",".join(map(str, plain)) if isinstance(plain, list) else str(plain)
    shown = ", else ".join(filter(None, (unsaid, shown)))
    if plain is MISSING:
        notes.append("required")
    elif shown:
        notes.append(f"default: {shown}")
    return f"{option.help} ({'; '.join(notes)})" if notes else option.help


def _required(options: Collection[Option]) -> list[str]:
    required = [o for o in options if o.default is MISSING and not o.positional]
    return [f"{o.flag} <{o.kind.label}>" for o in required]


def _epilog(options: Collection[Option], example: str) -> str:
    lines = [f"Example: {example}"] if example else []
    for origin in dict.fromkeys(option.origin for option in options if option.origin):
        flags = [option.flag for option in options if option.origin == origin]
        lines.append(
            f"Also taken, as flags and in the file: {len(flags)} fields of {origin}, "
            f"such as {flags[0]}."
        )
    return "\n\n".join(lines)
