"""What is built and what is in the repository: whole, licensed, free of addresses and machine paths."""

from __future__ import annotations

import email.message
import email.parser
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import apixo_nb

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from a copy of the sources so that the checkout stays clean."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "apixo_nb", source / "apixo_nb", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "--quiet",
    ]
    subprocess.run([*build, "--wheel-dir", str(target), str(source)], check=True, timeout=100)
    [built] = target.glob("*.whl")
    with zipfile.ZipFile(built) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.parser.Parser().parsestr(wheel.read(name).decode("utf-8"))


def test_wheel_holds_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile):
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "apixo_nb").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert "apixo_nb/py.typed" in packed
    for folder in ("templates", "widgets/static", "export/static"):
        assert any(name.startswith(f"apixo_nb/{folder}/") for name in packed)


def test_wheel_holds_the_licence(wheel: zipfile.ZipFile):
    [licence] = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_metadata_names_version_licence_and_extras(metadata: email.message.Message):
    assert metadata["Version"] == apixo_nb.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(metadata.get_all("Provides-Extra", [])) == set(declared["optional-dependencies"])
    assert {"lab", "test"} <= set(declared["optional-dependencies"])


def test_users_get_no_tools_of_ours(metadata: email.message.Message):
    always = [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]
    named = {re.split(r"[ <>=!~;\[]", need, maxsplit=1)[0].casefold() for need in always}
    assert named.isdisjoint({"pytest", "hypothesis", "mypy", "ruff", "playwright", "jupyterlab", "hatchling"})
    assert named.isdisjoint({"notebook", "voila", "pyarrow"})  # extras, for those who want them
    assert {"httpx2", "ipython", "sqlalchemy", "pandas", "pillow", "anywidget"} <= named


def test_command_is_installed(wheel: zipfile.ZipFile):
    [name] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "apixo-nb = apixo_nb.cli:main" in wheel.read(name).decode()


def test_every_tool_of_the_tests_has_its_version_pinned():
    pinned = {
        line.partition("==")[0].casefold().replace("_", "-")
        for file in ("constraints.txt", "tests/trackers/constraints.txt")
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [need for needs in project["optional-dependencies"].values() for need in needs]
    wanted = {re.split(r"[<>=!~;\[ ]", need, maxsplit=1)[0] for need in [*project["dependencies"], *extras]}
    assert wanted - {"apixo-nb"} <= pinned


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+]+", line)] == []


def test_tools_from_npm_are_pinned_without_an_address():
    wanted = json.loads((ROOT / "tests/package.json").read_text(encoding="utf-8"))
    locked = json.loads((ROOT / "tests/package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert wanted["private"]
    tools = {name: package for name, package in locked.items() if name}
    assert {name.rpartition("node_modules/")[2]: tool["version"] for name, tool in tools.items()} == wanted[
        "devDependencies"
    ]
    for tool in tools.values():
        assert tool["integrity"].startswith("sha512-")
        assert "resolved" not in tool
    assert "://" not in json.dumps(locked)


# Written in pieces, so that this file does not hold what it looks for.
FOREIGN = [
    "://" + "pypi",
    "files." + "pythonhosted",
    "registry." + "npmjs",
    "registry." + "yarnpkg",
    "--index" + "-url",
    "--extra-index" + "-url",
    "--" + "hash=",
    "resolution" + "-markers",
    "/work" + "/",
    "/root" + "/",
    "/home" + "/(?!me/)[a-z]+/",
    "C:" + r"\\Users",
]


def tracked() -> list[Path]:
    """The files of the repository; without one, as in an unpacked archive, those that lie here."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    hidden = re.compile(r"/(\.venv|\.git|__pycache__|node_modules|demo-output|apixo-runs|\.[a-z]+_cache)/")
    return [path for path in ROOT.rglob("*") if path.is_file() and not hidden.search(path.as_posix())]


@pytest.mark.parametrize("pattern", FOREIGN)
def test_no_file_holds_an_address_or_a_path_of_one_machine(pattern: str):
    found = re.compile(pattern)
    holding = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content and found.search(content.decode("utf-8", "replace")):
            holding.append(path.relative_to(ROOT).as_posix())
    assert holding == []
