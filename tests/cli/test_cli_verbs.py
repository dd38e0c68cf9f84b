"""Claims about `sdtt` as a whole: what it imports, how it fails, with what exit code."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sdtt.cli
from sdtt.cli import VERBS, app
from sdtt.cli.options import command

SOURCE = Path(sdtt.cli.__file__).parents[1]

# The command line without `sdtt/__init__.py`, which registers the models and so imports them.
ALONE = f"""
import sys, types
package = types.ModuleType("sdtt")
package.__path__ = [{str(SOURCE)!r}]
sys.modules["sdtt"] = package
from sdtt.cli import VerbGroup, create_app
"""


@dataclass(frozen=True)
class Nothing:
    """A verb's options."""

    count: int = field(default=1, metadata={"help": "how many"})


def failing(error):
    def fake(_: Nothing) -> None:
        """Fails."""
        raise error

    return command(fake)


def python(code, *, env=None):
    words = [sys.executable, "-c", ALONE + code]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}
    )


# ---------------------------------------------------------------- what help costs


def test_the_help_of_the_command_line_imports_neither_torch_nor_transformers():
    result = python(
        "try:\n    create_app()(['--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    assert result.returncode == 0, result.stderr
    assert "pretrain" in result.stdout


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_the_verbs_in_the_order_of_use(words):
    result = CliRunner().invoke(app, words, prog_name="sdtt")
    places = [result.stdout.index(f" {verb} ") for verb in VERBS]
    assert (result.exit_code, places) == (0, sorted(places))


def test_only_the_module_of_the_called_verb_is_imported(tmp_path):
    verb = (
        "from dataclasses import dataclass\nfrom sdtt.cli.options import command\n"
        "@dataclass(frozen=True)\nclass Nothing:\n    pass\n"
        "def {name}(_: Nothing) -> None:\n    print('ran {name}')\nCOMMAND = command({name})\n"
    )
    for name in ("one", "two"):
        (tmp_path / f"verb_{name}.py").write_text(verb.format(name=name))
    result = python(
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "class Group(VerbGroup):\n"
        "    verbs = {'one': ('verb_one', 'First'), 'two': ('verb_two', 'Second')}\n"
        "try:\n    create_app(Group)(['one'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "assert 'verb_two' not in sys.modules"
    )
    assert (result.returncode, result.stdout) == (0, "ran one\n"), result.stderr


def test_version_names_the_packages_that_results_depend_on():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    for name in ("sdtt", "torch", "transformers", "Python"):
        assert name in result.stdout


# ---------------------------------------------------------------- failures


def test_an_unknown_verb_is_met_with_the_nearest_one():
    result = CliRunner().invoke(app, ["distil"], prog_name="sdtt")
    assert result.exit_code == 2
    assert "Did you mean 'distill'?" in result.stderr
    assert "see 'sdtt --help'" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            ValueError("steps must be at least 1, got 0"),
            2,
            "error: steps must be at least 1, got 0",
        ),
        (FileNotFoundError(2, "no", "a/b"), 2, "error: there is no file or folder a/b"),
        (
            RuntimeError("shape"),
            1,
            "internal error: RuntimeError: shape (rerun with --debug for the traceback)",
        ),
        (
            KeyError("x"),
            1,
            "internal error: KeyError: 'x' (rerun with --debug for the traceback)",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_is_one_line_on_stderr_and_an_exit_code(invoke, error, code, line):
    result = invoke(failing(error), "fake")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", line + "\n")


@pytest.mark.parametrize("words", [("--debug", "fake"), ("fake", "--debug")])
def test_debug_shows_the_traceback_on_either_side_of_the_verb(invoke, words):
    result = invoke(failing(ValueError("steps")), *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert result.stderr.endswith("ValueError: steps\n")


def test_a_long_path_in_an_error_is_not_wrapped(invoke):
    path = "/long" * 60
    result = invoke(failing(FileNotFoundError(2, "no", path)), "fake")
    assert path in result.stderr


def test_results_piped_into_a_reader_that_stops_end_in_silence():
    code = (
        "from dataclasses import dataclass\nfrom sdtt.cli.options import command\n"
        "@dataclass(frozen=True)\nclass Nothing:\n    pass\n"
        "def fake(_: Nothing) -> None:\n    print('x' * 100, flush=True)\n"
        "module = types.ModuleType('fake_verb')\nmodule.COMMAND = command(fake)\n"
        "sys.modules['fake_verb'] = module\n"
        "class Group(VerbGroup):\n    verbs = {'fake': ('fake_verb', 'Prints')}\n"
        "create_app(Group)(['fake'])"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:  # noqa: PTH123  # a descriptor, not a path
        result = subprocess.run(
            [sys.executable, "-c", ALONE + code],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (result.returncode, result.stderr) == (1, "")
