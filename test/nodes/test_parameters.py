"""Parameters: declared with range and description, refused with a sentence."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from pose_ros.core.config import PipelineConfig, parameters, with_values
from pose_ros.core.node_config import NodeConfig
from pose_ros.errors import ConfigError
from pose_ros.nodes import parameters as ros_parameters

Make = Callable[..., Node]


@pytest.fixture(scope="module")
def make(domain: int) -> Iterator[Make]:
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain)
    nodes = []

    def make(**values: Any) -> Node:
        given = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        nodes.append(Node("declares", context=context, parameter_overrides=given))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def test_every_parameter_is_declared_with_its_default(make: Make) -> None:
    node = make()
    assert ros_parameters.declare(node, PipelineConfig()) == PipelineConfig()
    for name, item, value in parameters(PipelineConfig()):
        assert node.get_parameter(name).value == value
        told = node.describe_parameter(name)
        assert item.metadata["doc"] in told.description
        assert told.read_only is not item.metadata["live"]


def test_ranges_and_units_are_described(make: Make) -> None:
    node = make()
    ros_parameters.declare(node, PipelineConfig())
    interval = node.describe_parameter("detect.interval")
    assert (interval.integer_range[0].from_value, interval.integer_range[0].to_value) == (1, 60)
    assert "[frames]" in interval.description
    lost = node.describe_parameter("track.max_lost_s").floating_point_range[0]
    assert (lost.from_value, lost.to_value) == (0.05, 30.0)


def test_given_values_are_read_back(make: Make) -> None:
    config = ros_parameters.declare(make(detect__interval=3, device="cpu"), PipelineConfig())
    assert (config.detect.interval, config.device) == (3, "cpu")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("detect__interval", 0, "1 to 60 frames"),
        ("track__max_lost_s", 99.0, "0.05 to 30.0 s"),
        ("track__max_lost_s", 1, "write 1.0, not 1"),
        ("model__name", 3, "expected str"),
    ],
)
def test_bad_values_are_refused_with_a_sentence(
    make: Make, name: str, value: Any, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=name.replace("__", ".")) as error:
        ros_parameters.declare(make(**{name: value}), PipelineConfig())
    assert sentence in str(error.value)


def test_a_word_that_is_not_allowed_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="raw, compressed"):
        ros_parameters.declare(make(image_transport="theora"), NodeConfig())


def test_live_parameters_change_and_bad_ones_are_refused(make: Make) -> None:
    node = make()
    held = [ros_parameters.declare(node, PipelineConfig())]
    ros_parameters.on_change(node, lambda: held[-1], held.append)
    answer = node.set_parameters([Parameter("detect.interval", value=2)])[0]
    assert answer.successful
    assert held[-1] == with_values(PipelineConfig(), {"detect.interval": 2})
    assert not node.set_parameters([Parameter("detect.interval", value=500)])[0].successful
    refused = node.set_parameters([Parameter("model.name", value="other")])[0]
    assert not refused.successful and "read-only" in refused.reason
    assert held[-1].detect.interval == 2


def test_apply_may_refuse(make: Make) -> None:
    node = make()
    config = ros_parameters.declare(node, PipelineConfig())

    def refuse(_: PipelineConfig) -> None:
        raise ConfigError("not now: reason")

    ros_parameters.on_change(node, lambda: config, refuse)
    answer = node.set_parameters([Parameter("detect.interval", value=2)])[0]
    assert not answer.successful and answer.reason == "not now: reason"
