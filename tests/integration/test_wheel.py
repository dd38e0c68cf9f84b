"""What `pip install sdtt` would put on a machine."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"

# -I -S: neither the working folder nor any .pth file, so that the editable source is out of reach.
# The dependencies come from the site-packages of this interpreter, since installing them anew for a
# test would take a minute and a network.
IMPORT_ALL = """
import importlib, json, sys
from importlib.metadata import entry_points

folder, site_packages, *modules = sys.argv[1:]
sys.path[:0] = [folder, *json.loads(site_packages)]
files = {module: importlib.import_module(module).__file__ for module in modules}
(script,) = entry_points(group="console_scripts", name="sdtt")
print(json.dumps({"files": files, "script": script.value, "callable": callable(script.load())}))
"""


PAIR = Path("sdtt/pair")
IN_REPOSITORY = ("caching", "judge")
PROTOCOLS = Path("configs/evaluation")
WHEEL_BYTES = 24 * 10**6


def shipped_files() -> set[str]:
    """Those of the package less caching model and judge, and the protocols of evaluation."""
    protocols = {f"sdtt/protocols/{path.name}" for path in (ROOT / PROTOCOLS).iterdir()}
    files = (path for path in (SOURCE / "sdtt").rglob("*") if path.is_file())
    names = {path.relative_to(SOURCE) for path in files if path.suffix != ".pyc"}
    left_out = [PAIR / name for name in IN_REPOSITORY]
    inside = {each for each in names if not any(map(each.is_relative_to, left_out))}
    return protocols | set(map(str, inside))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree."""
    built = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    build += ["--no-build-isolation", "--wheel-dir", str(built), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = built.glob("sdtt-*.whl")
    return wheel


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked into an otherwise empty folder."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(unpacked: Path):
    files = (str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file())
    assert {name for name in files if ".dist-info/" not in name} == shipped_files()


def test_the_wheel_carries_student_and_teacher_in_at_most_24_megabytes(wheel: Path, unpacked: Path):
    for name in ("student", "teacher"):
        assert (unpacked / PAIR / name / "model.safetensors").is_file()
    listed = json.loads((unpacked / PAIR / "manifest.json").read_text())
    for name in IN_REPOSITORY:
        assert any(path.startswith(f"{name}/") for path in listed)
        assert not (unpacked / PAIR / name).exists()
    assert wheel.stat().st_size <= WHEEL_BYTES


def test_student_and_teacher_are_packed_and_the_others_are_not(tmp_path: Path):
    """Of any pair: a small tree with the build settings of this one."""
    for name in ("student", "teacher", *IN_REPOSITORY):
        folder = tmp_path / "src" / PAIR / name
        folder.mkdir(parents=True)
        for file in ("model.safetensors", "README.md"):
            (folder / file).write_text(name)
    (tmp_path / "src" / PAIR / "manifest.json").write_text("{}")
    (tmp_path / "src/sdtt/__init__.py").write_text("")
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(ROOT / PROTOCOLS, tmp_path / PROTOCOLS)
    build = [sys.executable, "-m", "hatchling", "build"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = tmp_path.glob("dist/*.whl"), tmp_path.glob("dist/*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as sources:
        packed = {"wheel": archive.namelist(), "sdist": sources.getnames()}
    due = {
        f"{name}/{file}"
        for name in ("student", "teacher")
        for file in ("model.safetensors", "README.md")
    }
    for kind, names in packed.items():
        inside = {name.split("sdtt/pair/", 1)[1] for name in names if "sdtt/pair/" in name}
        assert inside == due | {"manifest.json"}, kind


def test_the_wheel_says_that_it_is_typed(unpacked: Path):
    assert (unpacked / "sdtt" / "py.typed").is_file()


def test_the_wheel_carries_ranges_and_its_licence(unpacked: Path):
    (info,) = unpacked.glob("sdtt-*.dist-info")
    assert (info / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert not [
        need for need in PathDistribution(info).requires or [] if "==" in need.split(";")[0]
    ]


def test_every_module_and_the_command_import_from_the_wheel_alone(unpacked: Path, tmp_path: Path):
    names = sorted(name.removesuffix(".py") for name in shipped_files() if name.endswith(".py"))
    modules = [name.replace("/", ".").removesuffix(".__init__") for name in names]
    modules = [name for name in modules if name != "sdtt.__main__"]  # importing it is running it
    site_packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    process = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, str(unpacked)]
    done = subprocess.run(
        [*process, json.dumps(site_packages), *modules],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    elsewhere = {m: f for m, f in found["files"].items() if not Path(f).is_relative_to(unpacked)}
    assert not elsewhere
    assert found["script"] == "sdtt.cli:main"
    assert found["callable"]
