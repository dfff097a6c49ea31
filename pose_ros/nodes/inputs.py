"""The image and calibration a node reads, and what to say when they do not arrive."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import (
    QoSPolicyKind,
    QoSPresetProfiles,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.camera_info import is_rectified
from pose_ros.errors import CalibrationError
from pose_ros.nodes.conversions import camera_from_info

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

SILENCE_S = 5.0
_POLICIES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
_log = logging.getLogger(__name__)


def sensor_qos(depth: int = 1) -> QoSProfile:
    """Sensor data: best effort, the newest ``depth`` messages."""
    profile = QoSPresetProfiles.SENSOR_DATA.value
    return QoSProfile(
        history=profile.history,
        depth=depth,
        reliability=profile.reliability,
        durability=profile.durability,
    )


class ImageInput:
    """Subscriptions to ``image`` and ``camera_info``; they exist from construction to close."""

    def __init__(
        self, node: Node, compressed: bool, on_image: Callable[[Image | CompressedImage], None],
        rectified: str = "auto",
    ) -> None:  # fmt: skip
        """Subscribe; ``on_image`` is called by the executor.

        ``rectified``: yes, no, or auto, by the name of the image topic (`is_rectified`).
        """
        self.camera: PinholeCamera | None = None
        self.received = self.incompatible = 0  # images; publishers whose images will not arrive
        self._on_image = on_image
        self._node = node
        self._info: CameraInfo | None = None
        self._silent_s = 0.0
        self._image = node.create_subscription(
            CompressedImage if compressed else Image,
            "image",
            self._take_image,
            sensor_qos(),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._incompatible),
            qos_overriding_options=QoSOverridingOptions(_POLICIES),
        )
        self._rectified = rectified == "yes" or (
            rectified == "auto" and is_rectified(self._image.topic_name)
        )
        self._camera_info = node.create_subscription(
            CameraInfo, "camera_info", self._take_info, sensor_qos(10),
            qos_overriding_options=QoSOverridingOptions(_POLICIES),
        )  # fmt: skip

    @property
    def topic(self) -> str:
        """Full name of the image topic."""
        return self._image.topic_name

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._image)
        self._node.destroy_subscription(self._camera_info)

    def watch(self, image_age_s: float) -> None:
        """Say every ``SILENCE_S`` without an image what is there to see."""
        if image_age_s < SILENCE_S:
            self._silent_s = 0.0
        elif image_age_s - self._silent_s >= SILENCE_S:
            self._silent_s = image_age_s
            _log.warning("no frames on %s for %.0f s: %s", self.topic, image_age_s, self._seen())

    def _seen(self) -> str:
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return "nobody publishes there; does the camera run, is 'image' remapped?"
        wanted = self._image.msg_type.__name__
        offers = ", ".join(
            f"{p.node_name} offers {p.topic_type.rpartition('/')[2]}, "
            f"{p.qos_profile.reliability.name}, {p.qos_profile.durability.name}"
            for p in publishers
        )
        hint = "large images need the DDS profile config/fastdds.xml on both sides"
        return f"{len(publishers)} publisher(s) there: {offers}; wanted {wanted}; {hint}"

    def _take_image(self, image: Image | CompressedImage) -> None:
        self.received += 1
        self._on_image(image)

    def _take_info(self, info: CameraInfo) -> None:
        if self._info is not None and _same_camera(info, self._info):
            return
        self._info = info
        try:
            self.camera = camera_from_info(info, self._rectified)
        except CalibrationError as error:
            self.camera = None
            _log.warning("%s cannot be used: %s", self._camera_info.topic_name, error)

    def _incompatible(self, event: object) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)  # type: ignore[attr-defined]
        wanted = self._image.qos_profile.reliability
        self.incompatible += 1
        hint = ""
        if wanted == ReliabilityPolicy.RELIABLE:
            hint = f"; this node asks for RELIABLE (qos_overrides.{self.topic}.subscription)"
        _log.error(
            "a publisher on %s has an incompatible QoS: policy %s does not match%s; its images "
            "will not arrive", self.topic, policy, hint,
        )  # fmt: skip


def _same_camera(a: CameraInfo, b: CameraInfo) -> bool:
    """Whether two infos differ in nothing but the header."""
    return (
        (a.k == b.k).all()
        and (a.p == b.p).all()
        and a.d == b.d
        and (a.width, a.height, a.binning_x, a.binning_y, a.distortion_model)
        == (b.width, b.height, b.binning_x, b.binning_y, b.distortion_model)
        and a.roi == b.roi
    )
