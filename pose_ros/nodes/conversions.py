"""Messages to values of core and back; no logic beyond the message definitions."""

from __future__ import annotations

from array import array
from functools import partial

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, Twist, Vector3
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.camera_info import camera_from_info as camera_from_info
from pose_ros.core.decode import decode_compressed, decode_image
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import ByteArray, Frame
from pose_ros.messages import SECOND_NS, MessageTypes, PoseMessages
from pose_ros.msg import (
    HumanJointState,
    HumanJointStateArray,
    HumanPose,
    HumanPoseArray,
    Keypoint,
)


def ns_from_time(stamp: Time) -> int:
    """Nanoseconds of a message stamp."""
    return stamp.sec * SECOND_NS + stamp.nanosec


def time_from_ns(stamp_ns: int) -> Time:
    """Message stamp of nanoseconds."""
    return Time(sec=stamp_ns // SECOND_NS, nanosec=stamp_ns % SECOND_NS)


def shifted(header: Header, offset_s: float) -> Header:
    """Copy of a header with the stamp moved; the header itself when there is nothing to move."""
    if offset_s == 0.0:
        return header
    stamp_ns = max(0, ns_from_time(header.stamp) + round(offset_s * SECOND_NS))
    return Header(stamp=time_from_ns(stamp_ns), frame_id=header.frame_id)


def info_from_camera(camera: PinholeCamera, header: Header) -> CameraInfo:
    """``CameraInfo`` of a camera without binning or region of interest."""
    fx, fy, cx, cy = camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px
    model = "rational_polynomial" if len(camera.distortion) > 5 else "plumb_bob"
    return CameraInfo(
        header=header,
        width=camera.width_px,
        height=camera.height_px,
        distortion_model=model,
        d=list(camera.distortion) or [0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def rgb_from_image(message: Image | CompressedImage) -> ByteArray:
    """Pixels of an image message, (H, W, 3) RGB.

    Raises:
        ShapeError: for an encoding, size or buffer that does not fit.

    """
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data, message.format)
    return decode_image(
        message.data,
        width=message.width,
        height=message.height,
        encoding=message.encoding,
        step=message.step,
        is_bigendian=bool(message.is_bigendian),
    )


def frame_from_image(message: Image | CompressedImage, camera: PinholeCamera | None) -> Frame:
    """Decode an image; a camera of another image size does not belong to it and is left out.

    Raises:
        ShapeError: for an encoding, size or buffer that does not fit.

    """
    rgb = rgb_from_image(message)
    if camera is not None and rgb.shape[:2] != (camera.height_px, camera.width_px):
        camera = None
    return Frame(rgb, ns_from_time(message.header.stamp), message.header.frame_id, camera)


def image_from_pixels(pixels: ByteArray, encoding: str, header: Header) -> Image:
    """``Image`` of contiguous 8-bit pixels (H, W, 3), without NumPy's slow way into a message."""
    data = array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    height, width = pixels.shape[:2]
    return Image(
        header=header, height=height, width=width, encoding=encoding, step=3 * width, data=data
    )


def pose_messages(skeleton: Skeleton, score_min: float) -> PoseMessages:
    """Builder of ``HumanPoseArray`` messages in the classes that ROS generated."""
    return PoseMessages(_TYPES, skeleton, score_min)


_TYPES = MessageTypes(
    human_pose_array=HumanPoseArray,
    human_pose=HumanPose,
    human_joint_state_array=HumanJointStateArray,
    human_joint_state=HumanJointState,
    keypoint=Keypoint,
    point=Point,
    vector3=Vector3,
    quaternion=Quaternion,
    pose=Pose,
    twist=Twist,
    region_of_interest=RegionOfInterest,
    time=Time,
    floats=partial(array, "f"),
    doubles=partial(array, "d"),
    octets=partial(array, "B"),
    flags=list,
)
