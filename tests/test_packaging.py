"""What is installed is one package, hotswap, whatever folders users have of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("registry", "serving", "training")
# Without a compiler the kernels are left out; that is faster, and not what is asked here.
WITHOUT_COMPILER = {**os.environ, "CC": "false", "PIP_NO_INDEX": "1"}


def is_source(path: Path) -> bool:
    return "__pycache__" not in path.parts and path.suffix != ".so"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of what the package is built from, with the folders' links."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("hotswap", "tests", *LAYERS):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = f"import setuptools.build_meta as backend; backend.build_wheel({str(out)!r})"
    subprocess.run(
        [sys.executable, "-c", build],
        cwd=sources, env=WITHOUT_COMPILER, capture_output=True, check=True,
    )  # fmt: skip
    return next(out.glob("*.whl"))


class Installed:
    """An environment of its own, with our dependencies, in which hotswap is installed."""

    def __init__(self, root: Path) -> None:
        venv.create(root, with_pip=False)
        self.bin = root / "bin"
        packages = sysconfig.get_path("purelib", vars={"base": str(root)})
        (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def install(self, *what: str) -> None:
        python = str(self.bin / "python")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps"]
        subprocess.run(
            [*pip, "--no-build-isolation", *what],
            env=WITHOUT_COMPILER, capture_output=True, check=True,
        )  # fmt: skip

    def run(self, program: str, *arguments: str, cwd: Path) -> str:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [self.bin / program, *arguments],
            cwd=cwd, env=clean, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return (done.stdout + done.stderr).strip()


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest,
    wheel: Path,
    sources: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Installed:
    made = Installed(tmp_path_factory.mktemp("installed") / "venv")
    made.install(*([str(wheel)] if request.param == "wheel" else ["--editable", str(sources)]))
    return made


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """Somebody's project, whose packages are named like our folders."""
    for name in LAYERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("print('the user runs')\n")
    return tmp_path


def test_wheel_holds_the_files_of_one_package_and_no_tests(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {
        f"hotswap/{path.relative_to(ROOT)}"
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*")
        if path.is_file() and is_source(path)
    }
    own = {f"hotswap/{path.name}" for path in (ROOT / "hotswap").iterdir() if path.is_file()}
    assert names == files | own


def test_image_is_built_from_all_that_the_links_lead_to() -> None:
    links = [path for path in (ROOT / "hotswap").iterdir() if path.is_symlink()]
    copied = (ROOT / "Dockerfile").read_text()
    assert sorted(link.name for link in links) == sorted(LAYERS)
    for link in links:
        assert link.resolve() == ROOT.resolve() / link.name
        assert f"COPY {link.name} {link.name}\n" in copied


def test_folders_of_a_user_stay_theirs(installed: Installed, users_folder: Path) -> None:
    version = "hotswap, version"
    assert installed.run("hotswap", "--version", cwd=users_folder).startswith(version)
    assert installed.run("python", "-m", "hotswap", "--version", cwd=users_folder).startswith(
        version
    )
    code = (
        "import hotswap.registry.connect, hotswap.serving.settings, hotswap.training.spec\n"
        "import registry; print(registry.__file__)"
    )
    told = installed.run("python", "-c", code, cwd=users_folder)
    assert told == f"the user runs\n{users_folder}/registry/__init__.py"


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_of_ours_is_imported_by_its_bare_name(
    installed: Installed, layer: str, tmp_path: Path
) -> None:
    told = installed.run("python", "-c", f"import {layer}", cwd=tmp_path)
    assert told.endswith(f"ModuleNotFoundError: No module named '{layer}'")
