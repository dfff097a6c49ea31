"""pose_node on a camera's images, with its DDS profile; optionally the overlay and RViz.

ros2 launch pose_ros pose.launch.py image:=/camera/image_raw depth_transport:=raw rviz:=true
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from pose_ros import graph

# Topics of your robot; every one can be given as name:=/topic on the command line.
REMAPPINGS = {"image": graph.IMAGE, "camera_info": graph.CAMERA_INFO, "depth": graph.DEPTH,
              "depth_camera_info": graph.DEPTH_INFO, "imu": ""}  # fmt: skip
# Arguments that set a parameter when they are given; imu_map is a YAML file, see docs/imu.md.
SETTINGS = {"net": "model.name", "device": "device", "depth_transport": "depth_transport",
            "imu_axes": "imu.axes", "imu_map": "imu.topic_map"}  # fmt: skip
ARGUMENTS = {
    **REMAPPINGS,
    **dict.fromkeys(SETTINGS, ""),
    "params": str(graph.share("config", "pose.yaml")),
    "overlay": "true",
    "rviz": "false",
}


def node(spec: graph.NodeSpec, parameters: list, **options: object) -> Node:
    """One process of the graph as a launch action."""
    return Node(
        package="pose_ros", executable=spec.executable, name=spec.name, parameters=parameters,
        remappings=list(spec.remappings.items()), **options,
    )  # fmt: skip


def pose(context) -> list[Node]:
    """The pose node, with what the arguments say; an IMU that is named is used."""
    told = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    given = {parameter: told[name] for name, parameter in SETTINGS.items() if told[name]}
    chosen: dict = {name: ParameterValue(text, value_type=str) for name, text in given.items()}
    if told["imu"] or told["imu_map"]:
        chosen["imu.enable"] = True
    topics = {name: told[name] for name in REMAPPINGS if told[name]}
    return [node(graph.pose(**topics), [told["params"], *([chosen] if chosen else [])])]


def generate_launch_description() -> LaunchDescription:
    """Describe the processes."""
    overlay, rviz = (IfCondition(LaunchConfiguration(name)) for name in ("overlay", "rviz"))
    view = ["-d", str(graph.share("config", "pose.rviz"))]
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=value) for name, value in ARGUMENTS.items()),
        *(SetEnvironmentVariable(*item) for item in graph.dds_environment().items()),
        OpaqueFunction(function=pose),
        node(graph.overlay(LaunchConfiguration("image")), [], condition=overlay),
        Node(package="rviz2", executable="rviz2", arguments=view, condition=rviz),
    ])  # fmt: skip
