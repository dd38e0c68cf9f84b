"""What the README says, as a new user would type it."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from sdtt.cli import app

README = Path(__file__).parents[2] / "README.md"


def test_the_python_of_the_readme_runs_from_text_to_a_student(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {})
    assert sorted(path.name for path in tmp_path.glob("runs/py/student/students/*")) == ["4", "8"]
    assert "Return the" in capsys.readouterr().out


def test_a_plan_of_the_readme_is_one(monkeypatch):
    text = README.read_text(encoding="utf-8")
    plans = re.findall(r"^    sdtt (.* --dry-run)$", text, flags=re.M)
    assert plans
    monkeypatch.chdir(README.parent)  # where the recipes lie
    for plan in plans:
        result = CliRunner().invoke(app, [*shlex.split(plan), "--probe-updates", "0"])
        assert result.exit_code == 0, result.stderr


def test_the_map_names_every_folder_of_the_package():
    inside = README.parent.glob("src/sdtt/*/")
    folders = {path.name for path in inside if path.is_dir() and path.name != "__pycache__"}
    listed = set(re.findall(r"^      (\w+)/ ", README.read_text(encoding="utf-8"), flags=re.M))
    assert listed == folders
