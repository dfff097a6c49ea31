"""config/pose.yaml is what the dataclasses say."""

from pathlib import Path

import yaml

from pose_ros.core.config import PipelineConfig, parameters
from pose_ros.core.node_config import NodeConfig
from pose_ros.tools import dump_config

ROOT = Path(__file__).parents[2]


def test_the_file_is_up_to_date() -> None:
    assert (ROOT / "config" / "pose.yaml").read_text() == dump_config.yaml(), (
        "run: scripts/run python -m pose_ros.tools.dump_config > config/pose.yaml"
    )


def test_it_holds_every_default() -> None:
    read = yaml.safe_load(dump_config.yaml())["pose_node"]["ros__parameters"]
    for config in (NodeConfig(), PipelineConfig()):
        for name, _, value in parameters(config):
            found = read
            for part in name.split("."):
                found = found[part]
            assert found == value and type(found) is type(value), name


def test_the_table_has_a_row_per_parameter() -> None:
    rows = dump_config.markdown().splitlines()
    count = sum(len(list(parameters(config))) for config in (NodeConfig(), PipelineConfig()))
    assert len(rows) == count + 2
    assert any("`detect.interval`" in row and "1 to 60" in row for row in rows)


def test_the_table_of_the_readme_is_up_to_date() -> None:
    assert dump_config.markdown().strip() in (ROOT / "README.md").read_text(), (
        "run: scripts/run python -m pose_ros.tools.dump_config --markdown, and paste it"
    )
