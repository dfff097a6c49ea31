"""Parameters of the nodes around the pipeline, declared as in ``config.py``."""

from __future__ import annotations

from dataclasses import dataclass, field

from pose_ros.core.config import param, validate


@dataclass(frozen=True)
class PredictConfig:
    """Where people will be, at a fixed rate."""

    rate_hz: float = param(
        0.0, "Rate of /human_pose/predicted; 0 means none", unit="Hz", ge=0.0, le=1000.0
    )
    horizon_s: float = param(
        0.0, "How far ahead of now it looks", unit="s", ge=0.0, le=1.0, live=True
    )


@dataclass(frozen=True)
class CompatConfig:
    """Topics for readers that do not know our messages."""

    pose_array: bool = param(
        False, "Publish /human_pose/poses: every known joint of everybody as a PoseArray"
    )


@dataclass(frozen=True)
class HriConfig:
    """Topics of single people, as REP-155 names them."""

    enable: str = param(
        "auto", "Topics under /humans/bodies: off; auto: joint_states, urdf, position, velocity, "
        "and tracked, roi, skeleton2d where hri_msgs is installed; on: hri_msgs must be. Quote on "
        "and off, which YAML takes for true and false", one_of=("auto", "on", "off"),
    )  # fmt: skip


@dataclass(frozen=True)
class PrivacyConfig:
    """Pictures of people that leave the node."""

    publish_cropped: bool = param(
        False, "Offer everybody cut out of the image on /humans/bodies/<id>/cropped"
    )


@dataclass(frozen=True)
class NodeConfig:
    """What ``pose_node`` knows beside the pipeline."""

    image_transport: str = param(
        "raw", "Type of the image topic: raw is Image, compressed is CompressedImage (jpeg, png)",
        one_of=("raw", "compressed"),
    )  # fmt: skip
    image_rectified: str = param(
        "auto", "Whether the image is rectified, so that P of its camera_info counts and no lens: "
        "yes, no, or auto, by the topic's name (image_rect…)", one_of=("auto", "yes", "no"),
    )  # fmt: skip
    stamp_offset_s: float = param(
        0.0, "Added to the stamps of the images, for a camera whose clock is off",
        unit="s", ge=-10.0, le=10.0,
    )  # fmt: skip
    output_deadline_s: float = param(
        0.5, "Longest time between two messages on /human_pose; without images the node then "
        "says STALE_INPUT", unit="s", ge=0.05, le=60.0,
    )  # fmt: skip
    overload_share: float = param(
        0.2, "Share of images skipped within a second at which health becomes OVERLOADED",
        ge=0.0, le=1.0, live=True,
    )  # fmt: skip
    depth_transport: str = param(
        "none", "Depth images: none, raw (16UC1 mm or 32FC1 m) or compressedDepth",
        one_of=("none", "raw", "compressedDepth"),
    )  # fmt: skip
    autostart: bool = param(True, "Configure and activate without a lifecycle manager")
    output_frame: str = param(
        "", "Frame of everything metric, by TF at the image's stamp; empty: the camera's own"
    )
    tf_timeout_s: float = param(0.02, "Longest wait for that transform", unit="s", ge=0.0, le=1.0)
    tf: str = param(
        "body", "Frames on /tf, where tf2_msgs is installed: none, body (body_<id> of everybody) "
        "or full (the links of the URDF, too)", one_of=("none", "body", "full"),
    )  # fmt: skip
    predict: PredictConfig = field(default_factory=PredictConfig)
    compat: CompatConfig = field(default_factory=CompatConfig)
    hri: HriConfig = field(default_factory=HriConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)

    def __post_init__(self) -> None:
        """Refuse a value out of range."""
        validate(self)


@dataclass(frozen=True)
class OverlayConfig:
    """What ``overlay_node`` must know of the pose node to match its images and poses."""

    image_transport: str = param(
        "raw", "As the pose node's", one_of=("raw", "compressed")
    )  # fmt: skip
    stamp_offset_s: float = param(0.0, "As the pose node's", unit="s", ge=-10.0, le=10.0)

    def __post_init__(self) -> None:
        """Refuse a value out of range."""
        validate(self)


@dataclass(frozen=True)
class CameraConfig:
    """What ``camera_node`` is told."""

    source: str = param("", "Video file, folder of pictures, or camera device such as /dev/video0")
    rate_hz: float = param(
        0.0, "Images per second; 0 means the source's own rate", unit="Hz", ge=0.0, le=1000.0
    )
    loop: bool = param(False, "Start again when the video or folder ends")
    duration_s: float = param(
        0.0, "Stop after this time; 0 means at the end of the source", unit="s", ge=0.0, le=1e6
    )
    frame_id: str = param("camera_optical_frame", "Optical frame, in the header of the images")
    calibration: str = param("", "Calibration file as written by ROS's camera_calibration")
    fov_deg: float = param(
        0.0, "Horizontal field of view where there is no calibration; 0 means unknown",
        unit="deg", ge=0.0, le=179.0,
    )  # fmt: skip
    wait_for_subscribers: int = param(
        0, "Publish the first image when the image topic has this many readers",
        unit="readers", ge=0, le=100,
    )  # fmt: skip
    linger_s: float = param(
        0.5, "Stay this long after the last image so that it is delivered", unit="s",
        ge=0.0, le=60.0,
    )  # fmt: skip
    stamps_file: str = param("", "Write frame number and stamp (ns) of every image to this file")

    def __post_init__(self) -> None:
        """Refuse a value out of range."""
        validate(self)


@dataclass(frozen=True)
class RecorderConfig:
    """What ``recorder_node`` is told."""

    out: str = param("", "Folder to write: a rosbag2 with MCAP storage; must not exist")
    image: str = param("", "Image topic to record too; empty means none")

    def __post_init__(self) -> None:
        """Refuse a value out of range."""
        validate(self)
