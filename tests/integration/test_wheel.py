"""What `pip install sdtt` would put on a machine."""

import json
import subprocess
import sys
import sysconfig
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


def shipped_files() -> set[str]:
    files = (path for path in (SOURCE / "sdtt").rglob("*") if path.is_file())
    return {str(path.relative_to(SOURCE)) for path in files if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree, unpacked into an otherwise empty folder."""
    built, folder = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("unpacked")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    build += ["--no-build-isolation", "--wheel-dir", str(built), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = built.glob("sdtt-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(unpacked: Path):
    files = (str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file())
    assert {name for name in files if ".dist-info/" not in name} == shipped_files()


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
