"""The command line `sdtt VERB`: the only code of the package that prints or exits.

A verb is one short module. It has a function of the verb's name, whose parameters are config
dataclasses (see `sdtt.cli.options.command`), and the constant `COMMAND`; a line in `VERBS` makes it
known:

    def distill(settings: DistillSettings, run: RunFolder, training: Given[SDTTConfig]) -> None:
        '''Distil a model into one that needs fewer steps.'''
        ...

    COMMAND = command(distill, withhold={"output_dir"}, example="sdtt distill --model M ...")

The module is imported when its verb is called, so `sdtt --help` costs no more than
`import sdtt`. Results go to stdout; errors, notes and progress to stderr (`sdtt.cli.console`). Exit
codes: 0, 2 for what the user can mend, 1 for a fault of ours, 130 when interrupted, 143 when
training is ended by SIGTERM (it saves a checkpoint before either).
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import typer
from typer.core import TyperCommand, TyperGroup

from sdtt.cli import console

VERBS = {
    "pretrain": (
        "sdtt.cli.pretrain",
        "Train a masked diffusion model, or its causal twin, on text",
    ),
    "distill": (
        "sdtt.cli.distill",
        "Distil a model, round by round, into one that needs fewer steps",
    ),
    "generate": ("sdtt.cli.generate", "Write text with a model, from nothing or from a prompt"),
    "evaluate": (
        "sdtt.cli.evaluate",
        "Score a model, or a file of samples, at several numbers of steps",
    ),
    "convert": (
        "sdtt.cli.convert",
        "Bring in somebody's checkpoint, with an account of every key",
    ),
    "published": (
        "sdtt.cli.published",
        "List the published models that load by a name, and what is known of each",
    ),
    "report": (
        "sdtt.cli.report",
        "Make tables, figures and a page of what was evaluated; reads no model",
    ),
    "push": ("sdtt.cli.push", "Send a model to the hub, with a card made of its records"),
    "demo": (
        "sdtt.cli.demo",
        "Distil the shipped teacher, measure and report, in minutes on a CPU",
    ),
}

PANEL = "Verbs, in the order of use"
HELP = "Distil masked diffusion language models to write the same text in fewer steps."
EPILOG = """Example:
  sdtt distill --model MODEL --data DATA --output RUN
  sdtt generate --model RUN/students/32 --steps 32 --num-samples 4 --seed 1

Options of a verb: sdtt VERB --help"""


class VerbGroup(TyperGroup):
    """A group that imports a verb when it is called, and turns its exceptions into words."""

    verbs: ClassVar[Mapping[str, tuple[str, str]]] = VERBS

    def __init__(self, **attributes: object) -> None:
        """Lists the verbs by their one line of help only.

        Args:
            **attributes: what typer gives a group.
        """
        super().__init__(**attributes)  # type: ignore[arg-type]
        for name, (_, line) in self.verbs.items():
            self.add_command(TyperCommand(name, help=line, rich_help_panel=PANEL))

    def resolve_command(
        self, context: object, arguments: list[str]
    ) -> tuple[str | None, TyperCommand | None, list[str]]:
        """Replaces the line of help by the real command.

        Args:
            context: typer's context, whose class is private.
            arguments: the verb and what follows it.

        Returns:
            The verb, its command, and what follows it.
        """
        name, listed, rest = super().resolve_command(cast("typer.Context", context), arguments)
        if listed is None or name is None:
            return name, None, rest
        module = importlib.import_module(self.verbs[name][0])
        return name, cast("TyperCommand", module.COMMAND), rest

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: object,
    ) -> object:
        """Runs the command line, and exits with its code where `standalone_mode` is set.

        Args:
            args: the words after `sdtt`, those of the process if None; without any, help is shown.
            prog_name: the name shown in help.
            complete_var: typer's variable for shell completion.
            standalone_mode: print errors and exit; else let exceptions pass.
            windows_expand_args: expand wildcards on Windows.
            **extra: for typer's context.

        Returns:
            What typer returns, where `standalone_mode` is not set.
        """
        words = sys.argv[1:] if args is None else args
        call = super().main
        if not words:
            args = ["--help"]

        def run() -> object:
            return call(args, prog_name, complete_var, False, windows_expand_args, **extra)

        return console.run_and_exit(run, debug="--debug" in words) if standalone_mode else run()


def create_app(group: type[VerbGroup] = VerbGroup) -> typer.Typer:
    """The typer app of a group of verbs.

    Args:
        group: the group; a subclass with a table of its own serves the tests.

    Returns:
        The app; call it to run the command line.
    """
    app = typer.Typer(
        cls=group,
        help=HELP,
        epilog=EPILOG,
        add_completion=False,
        rich_markup_mode="rich",
        subcommand_metavar="VERB ...",
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="show versions and stop", callback=_show_version, is_eager=True
        ),
        debug: bool = typer.Option(False, "--debug", help="show the full traceback of an error"),
    ) -> None:
        del version, debug  # the first has its callback, the second is read before parsing

    return app


def _show_version(asked: bool) -> bool:
    if not asked:
        return asked
    torch, transformers, own = map(console.version_of, ("torch", "transformers", "sdtt"))
    beside = f"torch {torch}, transformers {transformers}, Python {platform.python_version()}"
    typer.echo(f"sdtt {own} ({beside})")
    raise typer.Exit


app = create_app()


def main() -> None:
    """The entry point of `sdtt` and of `python -m sdtt`."""
    app()
