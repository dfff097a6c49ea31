"""pose_node on a camera's images, with its DDS profile; optionally the overlay and RViz.

ros2 launch pose_ros pose.launch.py image:=/camera/image_raw depth_transport:=raw rviz:=true
"""

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from pose_ros import graph
from pose_ros.core.config import PipelineConfig

# Topics of your robot; every one can be given as name:=/topic on the command line.
REMAPPINGS = {"image": graph.IMAGE, "camera_info": graph.CAMERA_INFO,
              "depth": graph.DEPTH, "depth_camera_info": graph.DEPTH_INFO}  # fmt: skip
SETTINGS = {
    "net": ("model.name", PipelineConfig().model.name), "device": ("device", "auto"),
    "depth_transport": ("depth_transport", "none"),
}  # fmt: skip
ARGUMENTS = {
    **REMAPPINGS,
    **{name: default for name, (_, default) in SETTINGS.items()},
    "params": str(graph.share("config", "pose.yaml")),
    "overlay": "true",
    "rviz": "false",
}


def node(spec: graph.NodeSpec, parameters: list, **options: object) -> Node:
    """One process of the graph as a launch action."""
    return Node(
        package="pose_ros",
        executable=spec.executable,
        name=spec.name,
        parameters=parameters,
        remappings=list(spec.remappings.items()),
        **options,
    )


def generate_launch_description() -> LaunchDescription:
    """Describe the processes."""
    topics = {name: LaunchConfiguration(name) for name in REMAPPINGS}
    chosen = {
        parameter: ParameterValue(LaunchConfiguration(name), value_type=str)
        for name, (parameter, _) in SETTINGS.items()
    }
    overlay, rviz = (IfCondition(LaunchConfiguration(name)) for name in ("overlay", "rviz"))
    view = ["-d", str(graph.share("config", "pose.rviz"))]
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=value) for name, value in ARGUMENTS.items()),
        *(SetEnvironmentVariable(*item) for item in graph.dds_environment().items()),
        node(graph.pose(**topics), [LaunchConfiguration("params"), chosen]),
        node(graph.overlay(topics["image"]), [], condition=overlay),
        Node(package="rviz2", executable="rviz2", arguments=view, condition=rviz),
    ])  # fmt: skip
