"""Draws the skeletons on the images they belong to, in a process of its own."""

from __future__ import annotations

import logging
from collections import OrderedDict

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from pose_ros import graph
from pose_ros.core.draw import draw_skeletons
from pose_ros.core.node_config import OverlayConfig
from pose_ros.core.records import people_record
from pose_ros.core.skeletons import get_skeleton
from pose_ros.core.values import ByteArray
from pose_ros.errors import PoseRosError
from pose_ros.msg import HumanPoseArray
from pose_ros.nodes import conversions, parameters, process, ros_logging
from pose_ros.nodes.inputs import sensor_qos

KEPT = 30  # images waiting for their poses
_log = logging.getLogger(__name__)


def drawn(image: Image | CompressedImage, poses: HumanPoseArray) -> ByteArray:
    """RGB copy of ``image`` with the people of ``poses``.

    Raises:
        ShapeError: the image cannot be decoded.

    """
    rgb = conversions.rgb_from_image(image).copy()
    people = people_record(poses)
    draw_skeletons(
        rgb, people.ids, people.state, people.xy_px, people.score,
        get_skeleton(poses.layout), people.xyxy_px, people.status,
    )  # fmt: skip
    return rgb


class OverlayNode(Node):
    """Matches images and poses by stamp and publishes the drawing while somebody looks."""

    def __init__(self) -> None:
        """Subscribe to both."""
        super().__init__("overlay_node")
        ros_logging.forward(self.get_logger())
        self.exit_status: int | None = None
        self.config = parameters.declare(self, OverlayConfig())
        self._images: OrderedDict[int, Image | CompressedImage] = OrderedDict()
        self._drawings = self.create_publisher(Image, graph.DEBUG_IMAGE, sensor_qos(2))
        kind = CompressedImage if self.config.image_transport == "compressed" else Image
        self.create_subscription(kind, "image", self._keep, sensor_qos(5))
        self.create_subscription(HumanPoseArray, graph.POSES, self._draw, QoSProfile(depth=5))

    def close(self) -> None:
        """Nothing is held."""

    def _keep(self, image: Image | CompressedImage) -> None:
        if not self._drawings.get_subscription_count():
            return
        header = conversions.shifted(image.header, self.config.stamp_offset_s)
        self._images[conversions.ns_from_time(header.stamp)] = image
        while len(self._images) > KEPT:
            self._images.popitem(last=False)

    def _draw(self, poses: HumanPoseArray) -> None:
        stamp_ns = conversions.ns_from_time(poses.header.stamp)
        image = self._images.pop(stamp_ns, None)
        if image is None:
            return
        for older in [key for key in self._images if key < stamp_ns]:
            del self._images[older]
        try:
            rgb = drawn(image, poses)
        except PoseRosError as error:
            _log.warning("cannot draw: %s", error)
            return
        self._drawings.publish(conversions.image_from_pixels(rgb, "rgb8", poses.header))


def main() -> int:
    """Run the node."""
    return process.run(OverlayNode)
