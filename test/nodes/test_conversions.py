"""Messages to core and back: values, round trips, what unknown looks like."""

import dataclasses
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from pose_ros.core.angles import joint_angles
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.records import people_record
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import (
    Body,
    PoseResult,
    Poses2D,
    Poses3D,
    Refined2D,
    Tracks,
    TrackState,
)
from pose_ros.errors import CalibrationError, ShapeError
from pose_ros.messages import quaternions
from pose_ros.msg import HumanPose, Keypoint
from pose_ros.nodes import conversions as c
from pose_ros.nodes.inputs import ImageInput

STAMP_NS = 1_700_000_000_123_456_789


def result(people: int = 2) -> PoseResult:
    ids = np.arange(people, dtype=np.int64) + 7
    xy = np.tile(np.arange(17, dtype=np.float32)[:, None] * 10 + 5, (people, 1, 2))
    score = np.full((people, 17), 0.9, np.float32)
    boxes = np.tile(np.array([[-5.4, 3.6, 50.0, 999.0]], np.float32), (people, 1))
    tracks = Tracks(
        ids, np.full(people, TrackState.TRACKED, np.int8), boxes,
        np.full(people, 0.75, np.float32), np.full(people, STAMP_NS, np.int64),
    )  # fmt: skip
    return PoseResult(STAMP_NS, "cam", (160, 120), tracks, Poses2D(ids, xy, score), True)


def test_times_survive_a_round_trip() -> None:
    stamp = c.time_from_ns(STAMP_NS)
    assert (stamp.sec, stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert c.ns_from_time(stamp) == STAMP_NS


def test_an_offset_moves_the_stamp_and_nothing_else() -> None:
    header = Header(stamp=Time(sec=10, nanosec=900_000_000), frame_id="cam")
    moved = c.shifted(header, 0.2)
    assert (moved.stamp.sec, moved.stamp.nanosec, moved.frame_id) == (11, 100_000_000, "cam")
    assert c.shifted(header, 0.0) is header
    assert c.ns_from_time(c.shifted(header, -20.0).stamp) == 0


def test_image_round_trip_keeps_pixels_stamp_and_frame() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    header = Header(stamp=c.time_from_ns(STAMP_NS), frame_id="cam")
    frame = c.frame_from_image(c.image_from_pixels(pixels, "rgb8", header), None)
    assert (frame.rgb == pixels).all()
    assert (frame.stamp_ns, frame.frame_id, frame.camera) == (STAMP_NS, "cam", None)


@pytest.mark.parametrize("big", [0, 1])
def test_byte_order_reaches_the_decoder(big: int) -> None:
    values = np.array([[0x1234, 0xABCD]], ">u2" if big else "<u2")
    message = Image(width=2, height=1, step=4, encoding="mono16", is_bigendian=big)
    message.data = values.tobytes()
    assert c.rgb_from_image(message)[0, :, 0].tolist() == [0x12, 0xAB]


def test_compressed_images_are_decoded() -> None:
    good, data = cv2.imencode(".png", np.full((4, 5, 3), (10, 20, 30), np.uint8))
    assert good
    message = CompressedImage(format="png", data=data.tobytes())
    assert c.rgb_from_image(message)[0, 0].tolist() == [30, 20, 10]


@pytest.mark.parametrize(
    "change", [{"step": 5}, {"encoding": "nonsense"}, {"width": 0}, {"data": b""}]
)
def test_bad_images_are_refused(change: dict) -> None:
    values = {"width": 2, "height": 2, "step": 6, "encoding": "rgb8", "data": bytes(12), **change}
    with pytest.raises(ShapeError):
        c.rgb_from_image(Image(**values))


def info(**changes: object) -> CameraInfo:
    k = [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]
    return CameraInfo(**{"width": 640, "height": 480, "k": k, "d": [0.1, 0.0, 0.0, 0.0, 0.0],
                         "distortion_model": "plumb_bob", **changes})  # fmt: skip


def test_camera_info_round_trip() -> None:
    camera = c.camera_from_info(info())
    assert (camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px) == (500, 510, 320, 240)
    assert camera.distortion[0] == pytest.approx(0.1)
    assert c.camera_from_info(c.info_from_camera(camera, Header())) == camera


def test_region_of_interest_then_binning() -> None:
    message = info(binning_x=2, binning_y=2)
    message.roi.x_offset, message.roi.y_offset = 100, 40
    message.roi.width, message.roi.height = 320, 240
    camera = c.camera_from_info(message)
    # the principal point moves with the region: 320 - 100 = 220; centres: (220.5) / 2 - 0.5
    assert (camera.width_px, camera.height_px) == (160, 120)
    assert (camera.cx_px, camera.cy_px) == (109.75, 99.75)
    assert (camera.fx_px, camera.fy_px) == (250, 255)


def test_zero_k_is_no_calibration() -> None:
    with pytest.raises(CalibrationError, match="calibrate the camera"):
        c.camera_from_info(info(k=[0.0] * 9))


def test_a_fisheye_lens_is_refused() -> None:
    with pytest.raises(CalibrationError, match="equidistant"):
        c.camera_from_info(info(distortion_model="equidistant"))


def test_a_camera_of_another_size_is_not_the_images() -> None:
    image = c.image_from_pixels(np.zeros((480, 640, 3), np.uint8), "rgb8", Header())
    camera = PinholeCamera.from_fov(640, 480, 60.0)
    assert c.frame_from_image(image, camera).camera is camera
    assert c.frame_from_image(image, PinholeCamera.from_fov(320, 240, 60.0)).camera is None


def test_people_become_messages_and_come_back() -> None:
    header = Header(stamp=c.time_from_ns(STAMP_NS), frame_id="cam")
    message = c.pose_messages(COCO17, 0.2).array(result(), header)
    assert message.header == header and message.layout == "coco17"
    assert [h.body_id for h in message.humans] == ["b00007", "b00008"]
    assert message.humans[0].keypoints[3].u == 35.0
    record = people_record(message)
    assert record.stamp_ns == STAMP_NS
    assert record.ids.tolist() == [7, 8]
    assert record.xyxy_px[0].tolist() == [0, 4, 50, 120]  # rounded, clipped to 160 x 120
    inside = result().poses.xy_px[:, :12]
    np.testing.assert_allclose(record.xy_px[:, :12], inside)


def test_unknown_is_nan_and_never_zero() -> None:
    human = c.pose_messages(COCO17, 0.2).array(result(1), Header()).humans[0]
    assert human.scale_source == HumanPose.SCALE_UNKNOWN
    assert human.root.covariance[0] < 0 and human.root_velocity.covariance[0] < 0
    assert math.isnan(human.root.pose.position.x) and math.isnan(human.root.pose.orientation.w)
    assert math.isnan(human.root_velocity.twist.linear.z)
    assert len(human.segment_lengths) == len(COCO17.edges)
    assert all(math.isnan(length) for length in human.segment_lengths)
    for point in human.keypoints:
        assert math.isnan(point.position.z) and math.isnan(point.velocity.x)
        assert point.covariance[0] < 0 and math.isnan(point.speed_stddev)


def test_status_of_a_joint() -> None:
    told = result(1)
    told.poses.score[0, 1] = 0.1
    told.poses.xy_px[0, 2] = np.nan
    told.poses.xy_px[0, 3] = (200.0, 10.0)
    points = c.pose_messages(COCO17, 0.2).array(told, Header()).humans[0].keypoints
    assert [p.status for p in points[:4]] == [
        Keypoint.MEASURED, Keypoint.MISSING, Keypoint.MISSING, Keypoint.OUT_OF_IMAGE,
    ]  # fmt: skip
    for point in points[1:3]:
        assert math.isnan(point.u) and math.isnan(point.v) and point.confidence == 0.0
    assert points[3].u == 200.0


def test_reused_people_carry_nothing_over() -> None:
    messages = c.pose_messages(COCO17, 0.2)
    messages.array(result(2), Header())
    empty = result(1)
    empty.poses.xy_px[:] = np.nan
    empty.poses.score[:] = 0.0
    again = messages.array(empty, Header())
    assert len(again.humans) == 1
    assert all(p.status == Keypoint.MISSING for p in again.humans[0].keypoints)
    assert messages.array(result(0), Header()).humans == []


def standing() -> PoseResult:
    """Person 7 upright 3 m ahead, facing the camera: left is the image's right; all known."""
    told = result(1)
    poses = Poses3D.unknown(told.tracks.ids, 17)
    sides = {"left": 1.0, "right": -1.0}
    for name, (x, y) in {
        "eye": (0.03, -0.62), "ear": (0.07, -0.6), "shoulder": (0.2, -0.45),
        "elbow": (0.22, -0.15), "wrist": (0.22, 0.1), "hip": (0.12, 0.1), "knee": (0.12, 0.52),
        "ankle": (0.12, 0.95),
    }.items():  # fmt: skip
        for side, sign in sides.items():
            poses.xyz_m[0, COCO17.index(f"{side}_{name}")] = (sign * x, y, 3.0)
    poses.xyz_m[0, :3, 2] = 2.91  # eyes and nose before the ears
    poses.xyz_m[0, COCO17.index("nose")] = (0.0, -0.58, 2.88)
    poses.covariance_m2[0] = np.diag([1e-4, 1e-4, 9e-4])
    poses.velocity_m_s[0] = (0.1, 0.0, -0.5)
    poses.speed_std_m_s[0] = 0.2
    poses.status[0], poses.score[0], poses.scale[0] = Keypoint.MEASURED, 0.9, HumanPose.SCALE_MONO
    body = Body(poses, np.full((1, 16), 0.4, np.float32), joint_angles(poses, COCO17))
    return dataclasses.replace(told, body=body)


@pytest.mark.parametrize(
    ("pixels", "place", "published"),
    [
        (Keypoint.MEASURED, Keypoint.MEASURED, Keypoint.MEASURED),
        (Keypoint.MEASURED, Keypoint.INFERRED, Keypoint.INFERRED),  # a hand behind a board
        (Keypoint.MEASURED, Keypoint.PREDICTED, Keypoint.PREDICTED),
        (Keypoint.INFERRED, Keypoint.MEASURED, Keypoint.INFERRED),
        (Keypoint.MEASURED, Keypoint.MISSING, Keypoint.MEASURED),  # no metres, but pixels
        (Keypoint.MISSING, Keypoint.PREDICTED, Keypoint.PREDICTED),  # metres, but no pixels
        (Keypoint.MISSING, Keypoint.MISSING, Keypoint.MISSING),
    ],
)
def test_a_status_is_that_of_what_is_known_worse(pixels: int, place: int, published: int) -> None:
    told = standing()
    assert told.body is not None
    told.body.poses.status[0] = place
    if place == Keypoint.MISSING:
        told.body.poses.xyz_m[0] = np.nan
    status = np.full((1, 17), pixels, np.int8)
    poses = told.poses
    if pixels == Keypoint.MISSING:
        poses.xy_px[:], poses.score[:] = np.nan, 0.0
    told = dataclasses.replace(told, refined=Refined2D(poses, status))
    human = c.pose_messages(COCO17, 0.2).array(told, Header()).humans[0]
    assert {point.status for point in human.keypoints[:12]} == {published}  # those in the image
    assert all(math.isnan(p.position.z) == (place == Keypoint.MISSING) for p in human.keypoints)


def test_a_joint_that_the_network_doubts_is_no_measured_one() -> None:
    """Its pixels are MISSING below ``score_min``; its metres count as a guess."""
    told = standing()
    assert told.body is not None
    told.poses.score[0] = 0.15
    human = c.pose_messages(COCO17, 0.2).array(told, Header()).humans[0]
    assert {point.status for point in human.keypoints} == {Keypoint.INFERRED}
    assert all(math.isnan(point.u) and point.position.z > 0.0 for point in human.keypoints)


@pytest.mark.parametrize(
    ("topic", "said", "focal_px"),
    [
        ("/eye/image_raw", "auto", 600.0), ("/eye/image_rect", "auto", 500.0),
        ("/eye/image_rect", "no", 600.0), ("/eye/video", "yes", 500.0),
    ],
)  # fmt: skip
def test_which_image_a_calibration_is_read_for(topic: str, said: str, focal_px: float) -> None:
    ears = {}

    class Ears:
        def create_subscription(self, kind, name, heard, *_args, **_more):
            ears[name] = heard
            return SimpleNamespace(topic_name=topic if name == "image" else "/eye/camera_info")

    source = ImageInput(Ears(), False, lambda image: None, said)
    k, p = np.diag([600.0, 600.0, 1.0]), np.zeros((3, 4))
    p[:, :3] = np.diag([500.0, 500.0, 1.0])
    ears["camera_info"](CameraInfo(width=640, height=480, k=k.ravel(), p=p.ravel()))
    assert source.camera is not None and source.camera.fx_px == focal_px


def test_what_is_predicted_is_never_called_measured() -> None:
    told = standing()
    assert told.body is not None
    told.body.poses.status[0] = Keypoint.PREDICTED
    told.poses.xy_px[:], told.poses.score[:] = np.nan, 0.0  # pixels belong to an image
    human = c.pose_messages(COCO17, 0.2).array(told, Header()).humans[0]
    assert {point.status for point in human.keypoints} == {Keypoint.PREDICTED}


def test_a_body_becomes_metres() -> None:
    human = c.pose_messages(COCO17, 0.2).array(standing(), Header()).humans[0]
    assert human.scale_source == HumanPose.SCALE_MONO
    wrist = human.keypoints[COCO17.index("left_wrist")]
    assert (wrist.position.x, wrist.position.y, wrist.position.z) == (
        pytest.approx(0.22), pytest.approx(0.1), 3.0,
    )  # fmt: skip
    assert wrist.velocity.z == -0.5 and wrist.speed_stddev == pytest.approx(0.2)
    # xx xy xz yy yz zz
    assert wrist.covariance.tolist() == pytest.approx([1e-4, 0, 0, 1e-4, 0, 9e-4])
    assert human.segment_lengths.tolist() == pytest.approx([0.4] * 16)
    root = human.root.pose
    assert (root.position.x, root.position.y, root.position.z) == (0.0, pytest.approx(0.1), 3.0)
    q = root.orientation
    # x out of the body is towards the camera (-z), y to the left is +x, z to the head is -y
    axes = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    np.testing.assert_allclose(axes, [[0, 1, 0], [0, 0, -1], [-1, 0, 0]], atol=1e-6)
    assert human.root.covariance[14] == pytest.approx(9e-4)  # zz
    assert human.root.covariance[21] < 0  # how it is turned: not estimated
    assert human.root_velocity.covariance[0] == pytest.approx(0.04)
    assert human.root_velocity.twist.linear.z == -0.5
    assert math.isnan(human.root_velocity.twist.angular.x)


def test_metres_do_not_outlive_the_body() -> None:
    messages = c.pose_messages(COCO17, 0.2)
    messages.array(standing(), Header())
    human = messages.array(result(1), Header()).humans[0]
    assert human.scale_source == HumanPose.SCALE_UNKNOWN
    assert math.isnan(human.keypoints[9].position.x) and human.keypoints[9].covariance[0] < 0
    assert math.isnan(human.segment_lengths[0]) and human.root.covariance[0] < 0


def test_a_joint_without_metres_is_nan_with_unknown_covariance() -> None:
    told = standing()
    assert told.body is not None
    told.body.poses.xyz_m[0, 9] = told.body.poses.covariance_m2[0, 9] = np.nan
    human = c.pose_messages(COCO17, 0.2).array(told, Header()).humans[0]
    assert math.isnan(human.keypoints[9].position.y) and human.keypoints[9].covariance[0] == -1.0


def test_joints_of_which_only_the_place_is_known_have_its_status_and_score() -> None:
    told = standing()  # as `coast` answers: everybody carried on, without pixels
    assert told.body is not None
    told.poses.xy_px[:], told.poses.score[:] = np.nan, 0.0
    told.body.poses.status[:], told.body.poses.score[:] = Keypoint.PREDICTED, 0.5
    told.body.poses.xyz_m[0, 9] = np.nan
    points = c.pose_messages(COCO17, 0.2).array(told, Header()).humans[0].keypoints
    assert all(math.isnan(p.u) and math.isnan(p.v) for p in points)
    rest = [p for i, p in enumerate(points) if i != 9]
    assert {p.status for p in rest} == {Keypoint.PREDICTED}
    assert {p.confidence for p in rest} == {0.5}
    assert (points[9].status, points[9].confidence) == (Keypoint.MISSING, 0.0)


def test_filled_joints_say_what_they_are() -> None:
    told = result(1)
    status = np.full((1, 17), Keypoint.MEASURED, np.int8)
    status[0, 3], status[0, 4], status[0, 5] = Keypoint.INFERRED, Keypoint.PREDICTED, 0
    poses = Poses2D(told.poses.ids, told.poses.xy_px.copy(), told.poses.score.copy())
    poses.score[0, 3] = 0.05  # below score_min: told because it is marked as filled in
    poses.xy_px[0, 5] = np.nan
    told = dataclasses.replace(told, refined=Refined2D(poses, status))
    points = c.pose_messages(COCO17, 0.2).array(told, Header()).humans[0].keypoints
    assert [p.status for p in points[3:6]] == [
        Keypoint.INFERRED, Keypoint.PREDICTED, Keypoint.MISSING,
    ]  # fmt: skip
    assert points[3].u == 35.0 and math.isnan(points[5].u)


def test_joint_angles_carry_names_limits_and_nan() -> None:
    header = Header(frame_id="cam")
    told = standing()
    assert told.body is not None and told.body.angles is not None
    message = c.pose_messages(COCO17, 0.2).joint_angles(told, header, "rep155")
    assert (message.convention, message.header.frame_id) == ("rep155", "cam")
    human = message.humans[0]
    assert (human.id, human.body_id, human.state) == (7, "b00007", TrackState.TRACKED)
    assert len(human.name) == len(human.position) == len(human.status) == 20
    knee = human.name.index("l_knee")
    assert human.position[knee] == pytest.approx(0.0, abs=0.05)
    assert human.position_stddev[knee] > 0
    flat = c.pose_messages(COCO17, 0.2).joint_angles(result(1), header, "isb").humans[0]
    assert flat.id == 7 and "left_knee_flexion" in flat.name
    assert all(math.isnan(x) for x in flat.position) and set(flat.status) == {Keypoint.MISSING}


@pytest.mark.parametrize("seed", range(3))
def test_quaternions_of_rotations(seed: int) -> None:
    turns = Rotation.random(50, random_state=seed)
    ours = quaternions(turns.as_matrix())
    theirs = turns.as_quat()
    theirs[theirs[:, 3] < 0] *= -1
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    half = Rotation.from_rotvec(np.pi * np.eye(3))  # w = 0: the other components decide
    np.testing.assert_allclose(
        np.abs(quaternions(half.as_matrix())), np.abs(half.as_quat()), atol=1e-9
    )
