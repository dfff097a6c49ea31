"""Linters as tests; each runs where it is installed, and ``scripts/test`` installs them."""

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    run("ruff", "check", ".")


def test_ruff_format() -> None:
    run("ruff", "format", "--check", ".")


def test_mypy() -> None:
    run("mypy", "pose_ros/core", "pose_ros/build.py", "pose_ros/messages.py")


def test_xmllint() -> None:
    run("xmllint", "--noout", "package.xml", "config/fastdds.xml")


@pytest.mark.parametrize("tool", ["ament_flake8", "ament_pep257"])
def test_ament(tool: str) -> None:
    run(tool, "pose_ros")


def test_version_is_one() -> None:
    version = ElementTree.parse(ROOT / "package.xml").getroot().findtext("version")
    changes = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    assert f"{version} (" in changes or "Forthcoming" in changes
    assert sys.version_info >= (3, 10)
