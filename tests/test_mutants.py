"""Claims about the mutants, for CI runs but a third of them with each commit."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "sdtt"


@pytest.fixture(scope="module")
def mutants():
    spec = importlib.util.spec_from_file_location("mutants", TESTS / "mutants.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # where its dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module.MUTANTS
    del sys.modules["mutants"]


def test_what_a_mutant_replaces_stands_once_in_its_file(mutants):
    files = {
        file: (SOURCE / file).read_text(encoding="utf-8") for file in {m.file for m in mutants}
    }
    assert [m.name for m in mutants if files[m.file].count(m.old) != 1] == []


def test_the_tests_that_a_mutant_names_exist(mutants):
    named = {test.split("[")[0] for mutant in mutants for test in mutant.tests}
    files = {test.split("::")[0] for test in named}
    defined = {
        f"{file}::{name}"
        for file in files
        for name in re.findall(r"^def (test_\w+)", (TESTS / file).read_text("utf-8"), re.MULTILINE)
    }
    assert sorted(named - defined) == []


def test_no_two_mutants_have_one_name(mutants):
    names = [mutant.name for mutant in mutants]
    assert len(set(names)) == len(names)
