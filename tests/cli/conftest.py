"""A way to run one verb as `sdtt fake ...`, whatever verbs the package has."""

import sys
import types
from collections.abc import Callable

import pytest
from typer.core import TyperCommand
from typer.testing import CliRunner, Result

from sdtt.cli import VerbGroup, create_app

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`invoke(command, *words)` runs `sdtt *words` where `sdtt fake` is the command."""

    class Group(VerbGroup):
        verbs = {"fake": ("fake_verb", "A verb of the tests")}  # noqa: RUF012

    def run(command: TyperCommand, *words: str) -> Result:
        module = types.ModuleType("fake_verb")
        module.COMMAND = command
        monkeypatch.setitem(sys.modules, "fake_verb", module)
        return CliRunner().invoke(create_app(Group), words, prog_name="sdtt")

    return run
