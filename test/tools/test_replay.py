"""Bags in, bags out: the same bytes every time."""

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from world import Person, World, times

rosbags_rosbag2 = pytest.importorskip("rosbags.rosbag2")

from rosbags.highlevel import AnyReader  # noqa: E402

from pose_ros import graph  # noqa: E402
from pose_ros.core import records  # noqa: E402
from pose_ros.core.values import TrackState  # noqa: E402
from pose_ros.errors import CalibrationError, ConfigError, SourceError  # noqa: E402
from pose_ros.messages import PoseMessages  # noqa: E402
from pose_ros.tools import bag_input, replay, replay_report  # noqa: E402
from pose_ros.tools.bag_messages import (  # noqa: E402
    ANGLES_TYPE,
    POSES_TYPE,
    message_types,
    new_message,
    pose_typestore,
)

STORE = pose_typestore()
IMAGE = "sensor_msgs/msg/Image"
LIGHT = ["--net", "movenet_lightning", "--device", "cpu"]


def image(number: int, broken: bool = False):
    stamp = new_message(STORE, "builtin_interfaces/msg/Time", sec=5, nanosec=number * 50_000_000)
    header = new_message(STORE, "std_msgs/msg/Header", stamp=stamp, frame_id="eye")
    pixels = np.full(64 * 48 * 3, 100, np.uint8)
    return new_message(STORE, IMAGE, header=header, height=48, width=64, encoding="bgr8",
                       step=1 if broken else 192, data=pixels)  # fmt: skip


def make_bag(path: Path, topics: tuple[str, ...] = ("/eye/image",), sqlite: bool = False) -> Path:
    plugin = (
        rosbags_rosbag2.StoragePlugin.SQLITE3 if sqlite else rosbags_rosbag2.StoragePlugin.MCAP
    )
    with rosbags_rosbag2.Writer(path, version=9, storage_plugin=plugin) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, IMAGE, typestore=STORE)
            for number in range(6):
                message = image(number, broken=number == 2)
                writer.write(connection, number * 50_000_000, STORE.serialize_cdr(message, IMAGE))
    return path


def read(bag: Path, kind: str) -> list:
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.msgtype == kind]
        return [
            reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections=wanted)
        ]


@pytest.mark.parametrize("sqlite", [False, True])
def test_every_good_image_is_answered_with_its_stamp_and_the_bytes_repeat(
    tmp_path: Path, sqlite: bool
) -> None:
    bag = make_bag(tmp_path / "bag", sqlite=sqlite)
    answers = [replay.main([str(bag), "--out", str(tmp_path / out), *LIGHT]) for out in "ab"]
    assert answers[0]["frames"] == 5 and answers[0]["skipped"] == 1
    files = [(tmp_path / out / "poses" / "poses.mcap").read_bytes() for out in "ab"]
    assert files[0] == files[1]
    got = read(tmp_path / "a" / "poses", POSES_TYPE)
    assert [m.header.stamp.nanosec // 50_000_000 for m in got] == [0, 1, 3, 4, 5]
    assert [m.sequence for m in got] == list(range(1, 6))
    assert {m.header.frame_id for m in got} == {"eye"}
    assert {m.health for m in got} == {replay.DEGRADED_NO_CALIBRATION}
    angles = read(tmp_path / "a" / "poses", ANGLES_TYPE)
    assert [m.header.stamp for m in angles] == [m.header.stamp for m in got]
    assert {m.health for m in angles} == {replay.DEGRADED_NO_CALIBRATION}
    assert "<table>" in (tmp_path / "a" / "report.html").read_text()


def test_the_topic_must_be_clear(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bag", ("/left", "/right"))
    with pytest.raises(
        ConfigError, match=r"exactly one image topic \(choose with --topic\).* /left, /right"
    ):
        replay.main([str(bag), "--out", str(tmp_path / "o"), *LIGHT])
    with pytest.raises(ConfigError, match="expected image topic '/up' in the bag"):
        replay.main([str(bag), "--out", str(tmp_path / "o"), "--topic", "/up", *LIGHT])


def test_what_is_no_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected a rosbag2 directory"):
        replay.main([str(tmp_path / "missing"), "--out", str(tmp_path / "o"), *LIGHT])


def test_messages_say_what_is_known_and_nan_for_the_rest() -> None:
    results = World([Person(lambda t: (600.0, 240.0))]).run(times(10, 0.4))
    messages = PoseMessages(message_types(STORE), World([]).pipeline().skeleton, 0.2)
    header = new_message(STORE, "std_msgs/msg/Header", frame_id="eye")
    message = messages.array(results[-1], header)
    message = STORE.deserialize_cdr(STORE.serialize_cdr(message, POSES_TYPE), POSES_TYPE)
    human = message.humans[0]
    assert (human.id, human.body_id, human.state) == (1, "b00001", TrackState.TRACKED)
    assert len(human.keypoints) == 17 and len(human.segment_lengths) == 16
    for joint, truth in zip(
        human.keypoints, Person(lambda t: (600.0, 240.0)).joints(0), strict=True
    ):
        np.testing.assert_allclose((joint.u, joint.v), truth, atol=0.1)
        assert joint.status == (4 if truth[0] > 639.5 else 1)
        assert np.isnan([joint.position.x, joint.velocity.z, joint.speed_stddev]).all()
        assert joint.covariance[0] == -1
    assert human.roi.x_offset + human.roi.width == 640
    assert np.isnan(human.root.pose.position.x) and human.root.covariance[0] == -1


def test_jitter_by_hand_and_accuracy_against_a_truth() -> None:
    walker = Person(lambda t: (100 + 100 * t, 240.0))
    shaky = Person(lambda t: (100 + 100 * t + (2 if round(t * 20) % 2 else 0), 240.0))
    smooth, rough = (World([p]).run(times(20, 2.0)) for p in (walker, shaky))
    assert max(replay_report.jitter_px(smooth)) < 0.01
    assert replay_report.jitter_px(rough) == pytest.approx((4.0, 4.0), abs=0.01)  # |0 - 2 * 2 + 0|
    assert replay_report.jitter_px(rough[:2]) is None
    truth = {r.stamp_ns: {5: walker.joints(r.stamp_ns * 1e-9)} for r in rough}
    report = replay_report.accuracy(rough, truth)
    assert report == {"id_switches": 0, "accuracy": {"mean_px": 1.0, "found": 1.0}}


def test_a_truth_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"frame": 1}\n')
    with pytest.raises(SourceError, match="expected JSON lines with stamp_ns and people"):
        replay_report.read_truth(tmp_path / "t.jsonl")


def test_a_change_of_id_is_counted_once() -> None:
    still = Person(lambda t: (200.0, 240.0))
    hides = dataclasses.replace(still, hidden=lambda t: 0.5 <= t < 1.8)
    results = World([hides]).run(times(20, 2.5))
    truth = {r.stamp_ns: {1: still.joints(0)} for r in results}
    assert replay_report.accuracy(results, truth)["id_switches"] == 1


def info(number: int, width: int = 64, f_px: float = 50.0, model: str = "plumb_bob"):
    stamp = new_message(STORE, "builtin_interfaces/msg/Time", sec=5, nanosec=number * 50_000_000)
    header = new_message(STORE, "std_msgs/msg/Header", stamp=stamp, frame_id="eye")
    k = np.array([f_px, 0, 31.5, 0, f_px, 23.5, 0, 0, 1.0])
    p = np.array([60.0, 0, 30.0, 0, 0, 60.0, 24.0, 0, 0, 0, 1, 0])
    return new_message(STORE, INFO, header=header, width=width, height=48, k=k, d=np.zeros(5),
                       p=p, distortion_model=model)  # fmt: skip


INFO = "sensor_msgs/msg/CameraInfo"


def calibrated_bag(
    path: Path, depth: bool = False, depth_frame: str = "eye", image_topic: str = "/eye/image",
    **lens: Any,
) -> Path:  # fmt: skip
    """Six images, of which the third is broken; calibration from the second on; depth of four."""
    with rosbags_rosbag2.Writer(
        path, version=9, storage_plugin=rosbags_rosbag2.StoragePlugin.MCAP
    ) as writer:
        topics = {image_topic: IMAGE, "/eye/camera_info": INFO}
        if depth:
            topics |= {"/deep/image": IMAGE, "/deep/camera_info": INFO}
        add = {name: writer.add_connection(name, kind, typestore=STORE)
               for name, kind in topics.items()}  # fmt: skip

        def put(topic: str, number: int, message) -> None:
            raw = STORE.serialize_cdr(message, topics[topic])
            writer.write(add[topic], number * 50_000_000, raw)

        for number in range(6):
            put(image_topic, number, image(number, broken=number == 2))
            if number:
                put("/eye/camera_info", number, info(number, **lens))
            if depth:
                put("/deep/camera_info", number, info(number))
            if depth and number not in (1, 5):
                picture = image(number)
                picture.header.frame_id = depth_frame
                picture.encoding, picture.step = "32FC1", 256
                picture.data = np.full((48, 64), 2.0, np.float32).view(np.uint8).ravel()
                put("/deep/image", number, picture)
    return path


def test_the_calibration_beside_the_images_is_used_and_said(tmp_path: Path) -> None:
    bag = calibrated_bag(tmp_path / "bag")
    replay.main([str(bag), "--out", str(tmp_path / "o"), *LIGHT])
    got = read(tmp_path / "o" / "poses", POSES_TYPE)
    assert [m.health for m in got] == [replay.DEGRADED_NO_DEPTH] * 5
    bag = calibrated_bag(tmp_path / "wrong", width=640)  # the camera of another image
    replay.main([str(bag), "--out", str(tmp_path / "o"), *LIGHT])
    got = read(tmp_path / "o" / "poses", POSES_TYPE)
    assert {m.health for m in got} == {replay.DEGRADED_NO_CALIBRATION}


def test_a_calibration_lies_beside_its_image_whatever_the_transport() -> None:
    assert bag_input.info_topic("/eye/image_raw") == "/eye/camera_info"
    assert bag_input.info_topic("/eye/image_raw/compressed") == "/eye/camera_info"
    assert bag_input.info_topic("/deep/image/compressedDepth") == "/deep/camera_info"
    assert bag_input.info_topic("/image") == "/camera_info"


def test_the_calibration_of_a_rectified_image_is_its_projection(tmp_path: Path) -> None:
    bag = calibrated_bag(tmp_path / "bag", image_topic="/eye/image_rect", model="equidistant")
    with bag_input.open_bag(bag) as reader:
        arrived = list(bag_input.BagInput(reader, None, None).images(0.0))
    assert {(a.camera.fx_px, a.camera.cx_px) for a in arrived} == {(60.0, 30.0)}
    raw = calibrated_bag(tmp_path / "raw", model="equidistant")
    with bag_input.open_bag(raw) as reader:
        assert {a.camera for a in bag_input.BagInput(reader, None, None).images(0.0)} == {None}


def test_every_image_gets_the_depth_of_its_time(tmp_path: Path) -> None:
    bag = calibrated_bag(tmp_path / "bag", depth=True)
    argv = [str(bag), "--out", str(tmp_path / "o"), "--depth", "/deep/image", *LIGHT]
    assert replay.main(argv)["topic"] == "/eye/image"
    got = read(tmp_path / "o" / "poses", POSES_TYPE)
    with_depth = [m.header.stamp.nanosec // 50_000_000 for m in got if m.health == replay.OK]
    assert with_depth == [0, 3, 4]  # 2 cannot be decoded; 1 and 5 have no depth within 30 ms
    with bag_input.open_bag(bag) as reader:
        arrived = list(bag_input.BagInput(reader, None, "/deep/image").images(0.03))
    assert [a.stamp_ns % 10**9 // 50_000_000 for a in arrived] == list(range(6))
    frame = arrived[3].frame()
    assert frame.depth.stamp_ns == frame.stamp_ns and (frame.depth.depth_m == 2.0).all()
    assert frame.camera.fx_px == 50.0 and arrived[0].camera is not None


def test_depth_of_another_frame_counts_when_its_place_is_said(tmp_path: Path) -> None:
    bag = calibrated_bag(tmp_path / "bag", depth=True, depth_frame="deep")
    argv = [str(bag), "--out", str(tmp_path / "o"), "--depth", "/deep/image", *LIGHT]
    replay.main(argv)
    got = read(tmp_path / "o" / "poses", POSES_TYPE)
    assert {m.health for m in got} == {replay.DEGRADED_NO_DEPTH}
    place = "depth.extrinsics=0.05 0 0 0 0 0 1"
    replay.main([*argv, "--set", place])
    got = read(tmp_path / "o" / "poses", POSES_TYPE)
    assert sum(m.health == replay.OK for m in got) == 3
    with bag_input.open_bag(bag) as reader:
        arrived = list(bag_input.BagInput(reader, None, "/deep/image", place[17:]).images(0.03))
    np.testing.assert_allclose(arrived[3].frame().depth.rgb_from_depth[:3, 3], [0.05, 0, 0])
    with pytest.raises(CalibrationError, match=r"depth\.extrinsics: expected"):
        replay.main([*argv, "--set", "depth.extrinsics=left"])


def test_the_angles_topic_follows_the_settings(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bag")
    argv = [str(bag), "--out", str(tmp_path / "o"), "--set", "joints.convention=none", *LIGHT]
    report = replay.main(argv)
    with AnyReader([tmp_path / "o" / "poses"]) as reader:
        assert [c.topic for c in reader.connections] == [graph.POSES]
    assert (report["angles"], report["bone_cv"], report["jitter_px"]) == (None, None, None)


def test_a_person_is_written_with_metres_and_angles(tmp_path: Path) -> None:
    picture = cv2.imread(str(Path(__file__).parents[1] / "data" / "walker.jpg"))
    height, width = picture.shape[:2]
    with rosbags_rosbag2.Writer(
        tmp_path / "bag", version=9, storage_plugin=rosbags_rosbag2.StoragePlugin.MCAP
    ) as writer:
        add = [writer.add_connection(f"/eye/{name}", kind, typestore=STORE)
               for name, kind in (("camera_info", INFO), ("image", IMAGE))]  # fmt: skip
        for number in range(6):
            lens = info(number, width=width, f_px=float(width))
            lens.height, lens.k[2], lens.k[5] = height, width / 2, height / 2
            shown = image(number)
            shown.height, shown.width, shown.step = height, width, width * 3
            shown.data = picture.ravel()
            for connection, kind, message in zip(add, (INFO, IMAGE), (lens, shown), strict=True):
                raw = STORE.serialize_cdr(message, kind)
                writer.write(connection, number * 50_000_000, raw)
    report = replay.main([str(tmp_path / "bag"), "--out", str(tmp_path / "o"), *LIGHT])
    assert (
        report["people_max"] >= 1 and 0.0 <= report["jitter_px"] <= report["jitter_raw_px"] < 3.0
    )
    low, high = report["angles"]["knee_range_deg"]
    assert -10 < low <= high < 160
    people = records.people_record(read(tmp_path / "o" / "poses", POSES_TYPE)[-1])
    angles = records.angles_record(read(tmp_path / "o" / "poses", ANGLES_TYPE)[-1])
    assert angles.stamp_ns == people.stamp_ns and angles.health == replay.DEGRADED_NO_DEPTH
    np.testing.assert_array_equal(angles.angles.ids, people.ids)
    knee = angles.angles.names.index("l_knee")
    assert np.isfinite(angles.angles.angle_rad[:, knee]).any()
    assert 1.0 < np.nanmedian(people.xyz_m[..., 2]) < 30.0
    assert "data:image/png" in (tmp_path / "o" / "report.html").read_text()
