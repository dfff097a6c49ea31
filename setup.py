"""ROS-free install of the library, its networks and its tools: ``pip install .``.

colcon does not use this file (see CMakeLists.txt). The version is the one of package.xml.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r"<version>(.+?)</version>", (HERE / "package.xml").read_text())[1]


def data(folder: str) -> tuple[str, list[str]]:
    """Files of a folder, for share/pose_ros."""
    files = sorted(path for path in (HERE / folder).glob("*") if path.is_file())
    return f"share/pose_ros/{folder}", [str(path.relative_to(HERE)) for path in files]


setup(
    version=VERSION,
    packages=find_packages(include=["pose_ros", "pose_ros.*"], exclude=["pose_ros.nodes*"]),
    data_files=[
        data("models"),
        data("config"),
        data("config/train"),
        data("msg"),
        ("share/pose_ros", ["package.xml"]),
    ],
)
