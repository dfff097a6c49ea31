"""The launch files: inspected where ``launch`` is installed, otherwise read."""

import ast
import importlib.util
from pathlib import Path

import pytest

from pose_ros import graph

LAUNCH = Path(__file__).parents[2] / "launch"
FILES = sorted(LAUNCH.glob("*.launch.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_they_are_short_and_parse(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 60
    names = {n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)}
    assert "generate_launch_description" in names
    assert "REMAPPINGS = " in text.partition("def ")[0], "remappings belong on top"
    assert "dds_environment" in text and "SetEnvironmentVariable" in text


@pytest.mark.ros
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_they_describe_the_graph(path: Path) -> None:
    pytest.importorskip("launch_ros", reason="launch is not installed (there is no wheel of it)")
    spec = importlib.util.spec_from_file_location("launch_file", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    actions = module.generate_launch_description().entities
    kinds = {type(action).__name__ for action in actions}
    assert {"DeclareLaunchArgument", "SetEnvironmentVariable"} <= kinds
    arguments = {a.name for a in actions if type(a).__name__ == "DeclareLaunchArgument"}
    assert {"image", "camera_info"} <= arguments


@pytest.mark.parametrize(("distro", "older"), [("kilted", False), ("jazzy", True)])
def test_the_dds_profile_is_given_under_the_name_that_is_read(
    distro: str, older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # libfastrtps 2.14 (Jazzy) holds the string FASTRTPS_DEFAULT_PROFILES_FILE and no other
    profile = tmp_path / "share" / "pose_ros" / "config" / "fastdds.xml"
    profile.parent.mkdir(parents=True)
    profile.touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("ROS_DISTRO", distro)
    given = graph.dds_environment()
    assert given["FASTDDS_DEFAULT_PROFILES_FILE"] == str(profile)
    assert ("FASTRTPS_DEFAULT_PROFILES_FILE" in given) == older


def test_arguments_of_a_node_survive_the_command_line() -> None:
    spec = graph.camera("a b.mp4", rate_hz=30.0, loop=True)
    arguments = spec.arguments()
    assert arguments[:3] == ["--ros-args", "-r", "__node:=camera"]
    assert 'source:="a b.mp4"' in arguments
    assert "rate_hz:=30.0" in arguments and "loop:=true" in arguments
    assert f"image:={graph.IMAGE}" in arguments


@pytest.mark.ros
def test_every_executable_of_the_graph_is_installed() -> None:
    pytest.importorskip("pose_ros.msg", reason="needs the built package: run scripts/test")
    for spec in (graph.camera(""), graph.pose(), graph.overlay(), graph.recorder("")):
        assert graph.executable(spec.executable).is_file()
    assert graph.share("config", "pose.yaml").is_file()
