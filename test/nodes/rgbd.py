"""Rendered RGB-D cameras: pictures, and depth from the same place or another one, as messages."""

import dataclasses
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from pose_ros import graph
from pose_ros.core.camera import PinholeCamera
from pose_ros.msg import HumanPoseArray
from pose_ros.nodes.conversions import image_from_pixels, info_from_camera, time_from_ns
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import CameraPath, Scene


@dataclass(frozen=True)
class Aside(CameraPath):
    """A camera fixed to another one; ``rgb_from_depth`` is where it is."""

    rgb_from_depth: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(4))

    def cam_from_world(self, time_s: float) -> np.ndarray:
        return np.linalg.inv(self.rgb_from_depth) @ super().cam_from_world(time_s)


def place(xyz_m: tuple[float, float, float], turn_deg: float) -> np.ndarray:
    """(4, 4) of a camera at ``xyz_m``, turned about the y axis."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", turn_deg, degrees=True).as_matrix()
    pose[:3, 3] = xyz_m
    return pose


def parameter(pose: np.ndarray) -> str:
    """depth.extrinsics of a pose."""
    numbers = [*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
    return " ".join(f"{n:.9g}" for n in numbers)


def depth_of(scene: Scene, i: int, camera: PinholeCamera, pose: np.ndarray) -> Rendered:
    """Frame ``i`` of the scene from a camera at ``pose`` in the scene's own."""
    fields = {f.name: getattr(scene.path, f.name) for f in dataclasses.fields(CameraPath)}
    path = Aside(**fields, rgb_from_depth=pose)
    return render(dataclasses.replace(scene, camera=camera, path=path), i)


def millimetres(depth_m: np.ndarray) -> np.ndarray:
    return np.rint(np.nan_to_num(depth_m) * 1000).astype(np.uint16)


def raw_depth(depth_m: np.ndarray, header: Header, encoding: str = "32FC1") -> Image:
    pixels = np.nan_to_num(depth_m).astype(np.float32)
    pixels = millimetres(depth_m) if encoding == "16UC1" else pixels
    height, width = pixels.shape
    return Image(
        header=header, height=height, width=width, encoding=encoding,
        step=width * pixels.itemsize, data=pixels.tobytes(),
    )  # fmt: skip


def packed_depth(depth_m: np.ndarray, header: Header) -> CompressedImage:
    """As compressed_depth_image_transport sends 16UC1."""
    png = cv2.imencode(".png", millimetres(depth_m))[1].tobytes()
    data = struct.pack("<iff", 0, 0.0, 0.0) + png
    return CompressedImage(header=header, format="16UC1; compressedDepth png", data=data)


SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class RgbdCamera:
    """Publishes pictures and depth, and collects what comes back."""

    def __init__(self, peer: Any, kind: type = Image) -> None:
        self.peer = peer
        node = peer.node
        self.images = node.create_publisher(Image, graph.IMAGE, SENSOR)
        self.infos = node.create_publisher(CameraInfo, graph.CAMERA_INFO, SENSOR)
        self.depths = node.create_publisher(kind, graph.DEPTH, SENSOR)
        self.depth_infos = node.create_publisher(CameraInfo, graph.DEPTH_INFO, SENSOR)
        self.heard: dict[str, list[Any]] = {}
        self.readers: list[Any] = []
        self.listen(HumanPoseArray, graph.POSES)

    def listen(self, kind: type, topic: str, latched: bool = False) -> list[Any]:
        heard = self.heard.setdefault(topic, [])
        qos = QoSProfile(depth=50)
        if latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self.readers.append(self.peer.node.create_subscription(kind, topic, heard.append, qos))
        return heard

    def connect(self) -> None:
        heard = self.heard[graph.POSES]
        publishers = (self.images, self.depths, self.infos, self.depth_infos)
        assert self.peer.spin_until(
            lambda: heard and all(p.get_subscription_count() for p in publishers)
        )
        heard.clear()

    def send(self, picture: Rendered, stamp_ns: int, depth: bool = True) -> HumanPoseArray:
        """Send one picture with registered depth, or none. Returns the answer."""
        header = Header(stamp=time_from_ns(stamp_ns), frame_id="camera")
        info = info_from_camera(picture.camera, header)
        return self.send_pair(
            picture, stamp_ns, raw_depth(picture.depth_m, header) if depth else None, info
        )

    def send_pair(
        self, picture: Rendered, stamp_ns: int, depth: Image | CompressedImage | None,
        depth_info: CameraInfo | None, info: CameraInfo | None = None,
    ) -> HumanPoseArray:  # fmt: skip
        """Send one picture, after its depth; again if DDS lost it. Returns the answer.

        ``info`` is the colour camera's calibration, by default the true one.
        """
        header = Header(stamp=time_from_ns(stamp_ns), frame_id="camera")
        image = image_from_pixels(picture.rgb, "rgb8", header)
        for _ in range(3):
            self.infos.publish(info or info_from_camera(picture.camera, header))
            if depth_info is not None:
                self.depth_infos.publish(depth_info)
            if depth is not None:
                self.depths.publish(depth)
            self.peer.spin_for(0.02)
            self.images.publish(image)
            if self.peer.spin_until(lambda: self.answer(header), 3.0):
                break
        answer = self.answer(header)
        assert answer is not None
        return answer

    def answer(self, header: Header) -> HumanPoseArray | None:
        stale = HumanPoseArray.STALE_INPUT
        found = (a for a in self.heard[graph.POSES] if a.header.stamp == header.stamp)
        return next((a for a in found if a.health != stale), None)

    def close(self) -> None:
        for publisher in (self.images, self.infos, self.depths, self.depth_infos):
            self.peer.node.destroy_publisher(publisher)
        for reader in self.readers:
            self.peer.node.destroy_subscription(reader)
