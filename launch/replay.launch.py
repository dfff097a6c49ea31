"""pose_node on a recorded bag, in the time of the recording (/clock).

ros2 launch pose_ros replay.launch.py bag:=FOLDER image:=/camera/image_raw
"""

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import SetParameter

from launch import LaunchDescription
from pose_ros import graph

# Topics of the recording.
REMAPPINGS = {"image": graph.IMAGE, "camera_info": graph.CAMERA_INFO}


def generate_launch_description() -> LaunchDescription:
    """Describe the processes: the bag, and the graph of pose.launch.py on simulated time."""
    topics = {name: LaunchConfiguration(name) for name in REMAPPINGS}
    rate = LaunchConfiguration("rate")
    play = ["ros2", "bag", "play", LaunchConfiguration("bag"), "--clock", "--rate", rate,
            "--delay", LaunchConfiguration("delay")]  # fmt: skip
    pose = PythonLaunchDescriptionSource(str(graph.share("launch", "pose.launch.py")))
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=topic) for name, topic in REMAPPINGS.items()),
        DeclareLaunchArgument("bag", description="folder of the recording"),
        DeclareLaunchArgument("rate", default_value="1.0", description="speed of the replay"),
        DeclareLaunchArgument("delay", default_value="10", description="s until the nodes are up"),
        *(SetEnvironmentVariable(*item) for item in graph.dds_environment().items()),
        SetParameter("use_sim_time", True),
        IncludeLaunchDescription(pose, launch_arguments=topics.items()),
        ExecuteProcess(cmd=play, output="screen"),
    ])  # fmt: skip
