"""The scripts: what is missing is named with its package, and a second start costs nothing."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    "bash",
    "cat",
    "dirname",
    "env",
    "find",
    "flock",
    "mkdir",
    "rm",
    "tail",
    "cp",
    "grep",
    "mv",
)
PYTHON = '#!/bin/sh\ncase "$2" in *Python.h*) echo "{facts}" ;; *) exit 1 ;; esac\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The scripts in a folder with a space, where nothing is set up."""
    root = tmp_path / "a clone"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    return root


def machine(tmp_path: Path, *tools: str, facts: str = "3.11 True True") -> dict[str, str]:
    """Environment of a machine that has only these tools, and a Python that tells ``facts``."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for tool in (*TOOLS, *tools):
        path = shutil.which(tool)
        assert path, tool
        (folder / tool).symlink_to(path)
    if facts:
        (folder / "python3").write_text(PYTHON.format(facts=facts))
        (folder / "python3").chmod(0o755)
    return {"PATH": str(folder), "HOME": str(tmp_path)}


def start(clone: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clone / "scripts" / "run", "true"], env=env, cwd="/", capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "tools", "words"),
    [
        ("", (), "apt-get install python3"),
        ("3.9 True True", (), "3.10 to 3.13 is needed, 'python3' is 3.9"),
        ("3.14 True True", (), "POSE_ROS_PYTHON=python3.12"),
        ("3.11 True False", (), "apt-get install python3.11-venv"),
        ("3.12 False True", (), "apt-get install python3.12-dev"),
        ("3.11 True True", (), "'gcc' is needed to build the messages: apt-get install"),
        ("3.11 True True", ("gcc", "g++"), "'make' is needed"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_package(
    clone: Path, tmp_path: Path, facts: str, tools: tuple[str, ...], words: str
) -> None:
    ran = start(clone, machine(tmp_path, *tools, facts=facts))
    assert ran.returncode == 1
    assert words in ran.stderr
    assert not (clone / ".venv").exists()


def test_a_failed_step_shows_the_end_of_its_log_and_its_name(clone: Path, tmp_path: Path) -> None:
    ran = start(clone, machine(tmp_path, "gcc", "g++", "make"))
    assert ran.returncode == 1
    assert "[1/2] Python packages" in ran.stderr
    assert f"{clone}/log/packages.log" in ran.stderr
    assert not (clone / ".venv" / "recipe").exists()


def test_an_unknown_distribution_is_refused(clone: Path, tmp_path: Path) -> None:
    env = {**machine(tmp_path), "POSE_ROS_DISTRO": "noetic"}
    ran = start(clone, env)
    assert ran.returncode == 1 and "kilted or jazzy" in ran.stderr


def test_run_without_a_command_explains_itself() -> None:
    ran = subprocess.run([ROOT / "scripts" / "run"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "usage: scripts/run" in ran.stderr
    helped = subprocess.run([ROOT / "scripts" / "run", "--help"], capture_output=True, check=False)
    assert helped.returncode == 0


@pytest.mark.ros
def test_a_second_start_does_nothing_and_is_quick() -> None:
    if "POSE_ROS_VENV" not in os.environ:
        pytest.skip("not started by scripts/test")
    env = {k: v for k, v in os.environ.items() if not k.startswith("POSE_ROS_")}
    venv = os.environ["POSE_ROS_VENV"]
    env["PATH"] = env["PATH"].replace(f"{venv}/bin:", "")
    for name in ("ROS_DISTRO", "PYTHONPATH", "AMENT_PREFIX_PATH", "VIRTUAL_ENV"):
        env.pop(name, None)
    env["POSE_ROS_DISTRO"] = os.environ["ROS_DISTRO"]
    command = [ROOT / "scripts" / "run", "printenv", "FASTDDS_DEFAULT_PROFILES_FILE",
               "ROS_AUTOMATIC_DISCOVERY_RANGE", "PYTHONSAFEPATH", "POSE_ROS_VENV"]  # fmt: skip
    subprocess.run(command, env=env, cwd="/", check=True, capture_output=True)
    begin = time.perf_counter()
    ran = subprocess.run(command, env=env, cwd="/", check=True, capture_output=True, text=True)
    assert time.perf_counter() - begin < 0.3
    profile, reach, safe, used = ran.stdout.splitlines()
    assert Path(profile).name == "fastdds.xml" and reach == "LOCALHOST" and safe == "1"
    assert used == venv and ran.stderr == ""


def test_builder_paths_are_replaced_and_nothing_else() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("relocate", ROOT / "scripts/relocate_cmake.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    old = (
        '"${_IMPORT_PREFIX}/include;/opt/python/cp312-cp312/include/python3.12;'
        '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include"'
    )
    new = module.relocate(old, "/usr/include/python3.12", "/a b/site-packages")
    assert new == (
        '"${_IMPORT_PREFIX}/include;/usr/include/python3.12;'
        '/a b/site-packages/numpy/_core/include"'
    )
    assert module.relocate(new, "x", "y") == new
