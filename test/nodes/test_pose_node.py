"""The pose node over DDS on a real picture: what it answers, and what it says in trouble."""

import json
import math
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import Marker, MarkerArray

from pose_ros import graph
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.skeletons import COCO17
from pose_ros.msg import HumanJointStateArray, HumanPose, HumanPoseArray, Keypoint
from pose_ros.nets.checkpoint import find_card
from pose_ros.nodes import conversions

PICTURE = cv2.imread(str(Path(__file__).parents[1] / "data" / "walker.jpg"))
FRAME_NS = 40_000_000
FIRST_NS = 1_700_000_000_000_000_001
NET = {"model.name": "movenet_lightning", "device": "cpu", "threads": 1}
SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class Camera:
    """Publishes pictures and collects the answers."""

    def __init__(self, peer: Any) -> None:
        self.peer, self.stamp_ns = peer, FIRST_NS
        node = peer.node
        self.images = node.create_publisher(Image, graph.IMAGE, SENSOR)
        self.infos = node.create_publisher(CameraInfo, graph.CAMERA_INFO, SENSOR)
        self.answers: list[HumanPoseArray] = []
        self.reader = node.create_subscription(
            HumanPoseArray, graph.POSES, self.answers.append, QoSProfile(depth=50)
        )

    def connect(self) -> None:
        """Wait until the node reads our images and its STALE_INPUT messages reach us."""
        assert self.peer.spin_until(lambda: self.answers and self.images.get_subscription_count())
        self.answers.clear()

    def message(self, pixels: np.ndarray = PICTURE, **changes: Any) -> Image:
        self.stamp_ns += FRAME_NS
        header = Header(stamp=conversions.time_from_ns(self.stamp_ns), frame_id="camera_1")
        image = conversions.image_from_pixels(pixels, "bgr8", header)
        for name, value in changes.items():
            setattr(image, name, value)
        return image

    def ask(self, image: Image, timeout_s: float = 10.0) -> HumanPoseArray | None:
        """Send an image and wait for the answer with its stamp, sending it again if lost."""
        for _ in range(3):
            self.images.publish(image)
            if self.peer.spin_until(lambda: self.answer_to(image), timeout_s / 3):
                return self.answer_to(image)
        return None

    def answer_to(self, image: Image) -> HumanPoseArray | None:
        fresh = (a for a in self.answers if a.health != HumanPoseArray.STALE_INPUT)
        return next((a for a in fresh if a.header.stamp == image.header.stamp), None)

    def walk(self, frames: int) -> list[HumanPoseArray]:
        """Send the picture moving 2 px per frame; returns the answers."""
        pictures = [np.roll(PICTURE, 2 * i, axis=1) for i in range(frames)]
        answers = [self.ask(self.message(picture)) for picture in pictures]
        assert None not in answers
        return [answer for answer in answers if answer is not None]

    def close(self) -> None:
        for publisher in (self.images, self.infos):
            self.peer.node.destroy_publisher(publisher)
        self.peer.node.destroy_subscription(self.reader)


@pytest.fixture
def camera(peer: Any) -> Iterator[Camera]:
    camera = Camera(peer)
    yield camera
    camera.close()


@pytest.fixture(scope="module")
def running(start: Any) -> Any:
    """One pose node for the tests that leave it as they found it."""
    return start(graph.pose(**NET, output_deadline_s=0.4))


def call(peer: Any, kind: type, name: str, request: Any, timeout_s: float = 60.0) -> Any:
    client = peer.node.create_client(kind, name)
    assert peer.spin_until(client.service_is_ready)
    future = client.call_async(request)
    assert peer.spin_until(future.done, timeout_s)
    peer.node.destroy_client(client)
    return future.result()


def change(peer: Any, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return call(peer, ChangeState, "/pose_node/change_state", request).success


def tracked(answer: HumanPoseArray) -> set[int]:
    return {human.id for human in answer.humans if human.state == HumanPose.TRACKED}


def test_every_image_is_answered_with_its_own_header(running: Any, camera: Camera) -> None:
    camera.connect()
    answers = camera.walk(8)
    stamps = [conversions.ns_from_time(answer.header.stamp) for answer in answers]
    assert stamps == [FIRST_NS + FRAME_NS * (i + 1) for i in range(8)]
    assert {answer.header.frame_id for answer in answers} == {"camera_1"}
    sequences = [answer.sequence for answer in answers]
    assert sequences == list(range(sequences[0], sequences[0] + 8))
    assert {answer.layout for answer in answers} == {"coco17"}


def test_ids_are_stable_and_joints_lie_on_the_person(running: Any, camera: Camera) -> None:
    camera.connect()
    last = camera.walk(8)[4:]
    known = tracked(last[0])
    assert known
    assert all(known <= tracked(answer) for answer in last)
    human = max(last[-1].humans, key=lambda h: h.confidence)
    assert human.body_id == f"b{human.id:05d}"
    assert len(human.keypoints) == len(COCO17)
    assert math.isnan(human.keypoints[0].position.x)
    seen = [p for p in human.keypoints if p.status == Keypoint.MEASURED]
    assert len(seen) >= 8
    assert all(0 <= p.u < PICTURE.shape[1] and 0 <= p.v < PICTURE.shape[0] for p in seen)


def test_calibration_decides_about_health_and_markers(
    running: Any, camera: Camera, peer: Any
) -> None:
    markers: list[MarkerArray] = []
    reader = peer.node.create_subscription(
        MarkerArray, graph.MARKERS, markers.append, QoSProfile(depth=10)
    )
    camera.connect()
    assert camera.walk(1)[0].health == HumanPoseArray.DEGRADED_NO_CALIBRATION
    size = PICTURE.shape[1], PICTURE.shape[0]
    info = conversions.info_from_camera(PinholeCamera.from_fov(*size, 70.0), Header())
    camera.infos.publish(info)
    assert peer.spin_until(
        lambda: camera.walk(1)[0].health == HumanPoseArray.DEGRADED_NO_DEPTH, 20.0
    )

    def drawn() -> list[Marker]:
        return [m for array in markers for m in array.markers if m.action == Marker.ADD]

    assert peer.spin_until(lambda: camera.walk(2) and drawn(), 10.0)
    assert drawn()[0].header.frame_id == "camera_1"
    camera.infos.publish(CameraInfo(width=size[0], height=size[1]))
    assert peer.spin_until(
        lambda: camera.walk(1)[0].health == HumanPoseArray.DEGRADED_NO_CALIBRATION, 20.0
    )
    assert running.text.count("calibrate the camera") == 1
    peer.node.destroy_subscription(reader)


@pytest.mark.parametrize(
    "change",
    [{"encoding": "nonsense"}, {"step": 5}, {"data": b""}, {"width": 0, "height": 0}],
    ids=str,
)
def test_a_bad_image_is_skipped_and_the_next_one_answered(
    running: Any, camera: Camera, change: dict
) -> None:
    camera.connect()
    before = camera.walk(1)[0].sequence
    bad = camera.message(**change)
    camera.images.publish(bad)
    camera.peer.spin_for(0.1)
    after = camera.walk(1)[0]
    assert camera.answer_to(bad) is None
    assert after.sequence == before + 1
    assert "frame skipped" in running.text


def test_images_that_cannot_be_used_are_stale_input(running: Any, camera: Camera) -> None:
    camera.connect()
    assert tracked(camera.walk(4)[-1])
    camera.answers.clear()
    for _ in range(12):
        camera.images.publish(camera.message(encoding="nv21"))
        camera.peer.spin_for(0.08)
    assert camera.answers
    assert {a.health for a in camera.answers} == {HumanPoseArray.STALE_INPUT}


def test_failures_are_counted_in_the_diagnostics(running: Any, camera: Camera, peer: Any) -> None:
    reports: list[DiagnosticArray] = []
    reader = peer.node.create_subscription(DiagnosticArray, "/diagnostics", reports.append, 10)
    camera.connect()
    camera.images.publish(camera.message(encoding="nonsense"))
    camera.walk(1)
    peer.spin_until(lambda: False, 1.2)
    assert peer.spin_until(lambda: reports, 5.0)
    values = {pair.key: pair.value for pair in reports[-1].status[0].values}
    assert int(values["failed"]) >= 1
    assert values["net"] == "movenet_lightning"
    assert float(values["network_ms_p50"]) > 0.0
    peer.node.destroy_subscription(reader)


def test_another_image_size_and_a_stamp_that_goes_back_are_survived(
    running: Any, camera: Camera
) -> None:
    camera.connect()
    known = tracked(camera.walk(5)[-1])
    assert known
    small = camera.ask(camera.message(cv2.resize(PICTURE, (320, 180))))
    assert small is not None
    lost = {h.id for h in small.humans if h.state == HumanPose.LOST}
    assert known <= lost
    camera.stamp_ns -= 60 * 1_000_000_000
    again = camera.ask(camera.message())
    assert again is not None and not known & tracked(again)


def test_input_that_stops_is_stale_within_the_deadline_then_people_are_lost_once(
    running: Any, camera: Camera, peer: Any
) -> None:
    camera.connect()
    last = camera.walk(6)[-1]
    known = tracked(last)
    start = time.monotonic()
    camera.answers.clear()

    def stale() -> list[HumanPoseArray]:
        return [a for a in camera.answers if a.health == HumanPoseArray.STALE_INPUT]

    assert peer.spin_until(stale, 5.0)
    assert time.monotonic() - start < 0.4 + 0.1  # the deadline, and a tolerance for two cores
    first = stale()[0]
    assert first.header == last.header and first.sequence == last.sequence
    assert {h.id for h in first.humans} >= known
    assert {h.state for h in first.humans} == {HumanPose.OCCLUDED}
    # without a calibrated camera there are pixels only, and those belong to an image
    assert all(p.status == Keypoint.MISSING for h in first.humans for p in h.keypoints)

    def lost() -> list[int]:
        return [h.id for a in stale() for h in a.humans if h.state == HumanPose.LOST]

    assert peer.spin_until(lambda: known <= set(lost()), 5.0)
    peer.spin_for(0.6)
    assert len(lost()) == len(set(lost()))
    assert stale()[-1].humans == []
    assert camera.walk(1)[0].health != HumanPoseArray.STALE_INPUT


def test_the_layout_is_latched(running: Any, peer: Any) -> None:
    told: list[String] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    reader = peer.node.create_subscription(String, graph.LAYOUT, told.append, latched)
    assert peer.spin_until(lambda: told)
    layout = json.loads(told[0].data)
    assert tuple(layout["names"]) == COCO17.joints
    assert ["left_hip", "left_knee"] in layout["edges"]
    peer.node.destroy_subscription(reader)


def test_tracks_can_be_reset(running: Any, camera: Camera, peer: Any) -> None:
    camera.connect()
    known = tracked(camera.walk(5)[-1])
    assert known
    assert call(peer, Trigger, "/pose_node/reset_tracks", Trigger.Request()).success
    assert not known & tracked(camera.walk(2)[-1])


def test_a_disabled_node_is_blind_until_it_is_enabled(
    running: Any, camera: Camera, peer: Any
) -> None:
    camera.connect()
    assert tracked(camera.walk(5)[-1])
    assert call(peer, SetBool, "/pose_node/set_enabled", SetBool.Request(data=False)).success
    peer.spin_for(0.2)
    camera.answers.clear()
    assert camera.ask(camera.message(), 0.9) is None
    assert {a.health for a in camera.answers} == {HumanPoseArray.STALE_INPUT}
    assert call(peer, SetBool, "/pose_node/set_enabled", SetBool.Request(data=True)).success
    assert camera.ask(camera.message()) is not None


def test_live_parameters_reach_the_pipeline(running: Any, camera: Camera, peer: Any) -> None:
    def set_score_min(value: float) -> Any:
        inner = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        request = SetParameters.Request(
            parameters=[Parameter(name="model.score_min", value=inner)]
        )
        return call(peer, SetParameters, "/pose_node/set_parameters", request).results[0]

    camera.connect()
    assert set_score_min(0.99).successful
    points = [p for human in camera.walk(5)[-1].humans for p in human.keypoints]
    assert points and all(p.status == Keypoint.MISSING for p in points)
    refused = set_score_min(7.0)
    assert not refused.successful
    assert set_score_min(0.2).successful


def test_down_and_up_again(running: Any, camera: Camera, peer: Any) -> None:
    camera.connect()
    known = tracked(camera.walk(5)[-1])
    camera.answers.clear()
    accepted = camera.message()
    camera.images.publish(accepted)
    peer.spin_for(0.1)
    assert change(peer, Transition.TRANSITION_DEACTIVATE)
    assert peer.spin_until(lambda: camera.answer_to(accepted), 2.0), "accepted, but not answered"
    ended = [h.id for a in camera.answers for h in a.humans if h.state == HumanPose.LOST]
    assert known <= set(ended) and len(ended) == len(set(ended))
    assert change(peer, Transition.TRANSITION_CLEANUP)
    assert change(peer, Transition.TRANSITION_CONFIGURE)
    assert change(peer, Transition.TRANSITION_ACTIVATE)
    camera.connect()
    again = tracked(camera.walk(5)[-1])
    assert again and min(again) > max(known), "an id came back"


def test_sigint_ends_cleanly(running: Any, camera: Camera) -> None:
    camera.connect()
    known = tracked(camera.walk(5)[-1])
    camera.answers.clear()
    assert running.end() == 0
    camera.peer.spin_for(0.2)
    ended = {h.id for a in camera.answers for h in a.humans if h.state == HumanPose.LOST}
    assert known <= ended
    assert "Traceback" not in running.text


def test_before_the_first_image_input_is_stale_too(start: Any, camera: Camera) -> None:
    program = start(graph.pose(**NET, output_deadline_s=0.2))
    camera.connect()
    assert camera.peer.spin_until(lambda: camera.answers)
    first = camera.answers[0]
    assert first.health == HumanPoseArray.STALE_INPUT
    assert (first.header.stamp.sec, first.header.stamp.nanosec) == (0, 0)
    assert (first.header.frame_id, first.sequence, first.humans) == ("", 0, [])
    assert program.end(signal.SIGTERM) == 0


def test_metres_are_carried_on_for_a_while_when_input_stops(
    start: Any, camera: Camera, peer: Any
) -> None:
    longest_s = 0.7
    program = start(
        graph.pose(**NET, output_deadline_s=0.4, **{"filter.max_prediction_s": longest_s})
    )
    angles: list[HumanJointStateArray] = []
    places: list[PointStamped] = []
    heard = peer.node.create_subscription(HumanJointStateArray, graph.ANGLES, angles.append, 50)
    camera.connect()
    info = PinholeCamera.from_fov(PICTURE.shape[1], PICTURE.shape[0], 70.0)
    camera.infos.publish(conversions.info_from_camera(info, Header()))
    assert peer.spin_until(
        lambda: camera.walk(1)[0].health == HumanPoseArray.DEGRADED_NO_DEPTH, 20.0
    )
    number = min(tracked(camera.walk(5)[-1]))
    body = f"{graph.BODIES}/b{number:05d}"
    placed = peer.node.create_subscription(PointStamped, f"{body}/position", places.append, 50)
    assert peer.spin_until(placed.get_publisher_count, 5.0)
    assert peer.spin_until(lambda: camera.walk(1) and places, 10.0)
    last = camera.walk(4)[-1]
    peer.spin_for(0.05)
    for heap in (camera.answers, angles, places):
        heap.clear()

    def stale(state: int) -> list[tuple[HumanPoseArray, HumanPose]]:
        blind = [a for a in camera.answers if a.health == HumanPoseArray.STALE_INPUT]
        return [(a, h) for a in blind for h in a.humans if (h.id, h.state) == (number, state)]

    assert peer.spin_until(lambda: stale(HumanPose.LOST), 5.0)
    told = [(a, h.keypoints) for a, h in stale(HumanPose.OCCLUDED)]
    carried = [(a, ps) for a, ps in told if any(p.status == Keypoint.PREDICTED for p in ps)]
    assert len(carried) >= 2, "at a deadline of 0.4 s a message comes every 0.2 s"
    start_ns = conversions.ns_from_time(last.publish_stamp)
    for answer, _ in carried:
        assert answer.header == last.header and answer.sequence == last.sequence
        late_s = (conversions.ns_from_time(answer.publish_stamp) - start_ns) * 1e-9
        assert late_s <= longest_s + 0.1
    hips = [COCO17.index("left_hip"), COCO17.index("right_hip")]
    for hip in hips:
        known = [ps[hip] for _, ps in carried if ps[hip].status == Keypoint.PREDICTED]
        variance = [p.covariance[0] for p in known]
        assert len(known) >= 2 and variance == sorted(variance) and variance[0] < variance[-1]
        assert all(math.isfinite(p.position.x) and p.confidence > 0 for p in known)
        assert all(math.isnan(p.u) for p in known)
    assert all(p.status == Keypoint.MISSING and math.isnan(p.position.x) for p in told[-1][1])
    turns = [x for a in angles for h in a.humans for x in h.position]
    assert turns and all(math.isnan(x) for x in turns)
    assert places == [], "a place without health, of another time than its stamp"
    for reader in (heard, placed):
        peer.node.destroy_subscription(reader)
    assert program.end() == 0


def test_compressed_images_and_a_clock_that_is_off(start: Any, peer: Any) -> None:
    topic = "/camera/jpeg"
    settings = {**NET, "image_transport": "compressed", "stamp_offset_s": -0.5}
    program = start(graph.pose(topic, **settings))
    camera = Camera(peer)
    images = peer.node.create_publisher(CompressedImage, topic, SENSOR)
    assert peer.spin_until(images.get_subscription_count)
    header = Header(stamp=conversions.time_from_ns(FIRST_NS), frame_id="jpeg")
    data = cv2.imencode(".jpg", PICTURE)[1].tobytes()

    def answered() -> list[HumanPoseArray]:
        return [a for a in camera.answers if a.header.frame_id == "jpeg"]

    for _ in range(10):  # best effort: the first one may leave before the reader is connected
        images.publish(CompressedImage(header=header, format="jpeg", data=data))
        if peer.spin_until(answered, 1.0):
            break
    assert conversions.ns_from_time(answered()[0].header.stamp) == FIRST_NS - 500_000_000
    peer.node.destroy_publisher(images)
    camera.close()
    assert program.end() == 0


def test_an_incompatible_publisher_is_reported_by_policy_and_silence_explained(
    start: Any, camera: Camera
) -> None:
    topic = f"qos_overrides.{graph.IMAGE}.subscription.reliability"
    program = start(graph.pose(**NET, **{topic: "reliable"}))
    limit_s = time.monotonic() + 30.0
    assert camera.peer.spin_until(lambda: "waiting for images" in program.text, 30.0)
    assert camera.peer.spin_until(lambda: "policy RELIABILITY" in program.text, 5.0)
    assert "incompatible QoS" in program.text
    assert camera.peer.spin_until(lambda: "no frames on" in program.text, 8.0)
    assert "offers Image, BEST_EFFORT" in program.text and time.monotonic() < limit_s + 15.0
    assert program.end() == 0


def test_an_unknown_network_fails_configure_with_a_sentence(start: Any, peer: Any) -> None:
    program = start(graph.pose(**{**NET, "model.name": "movenet_nonsense"}, autostart=False))
    assert not change(peer, Transition.TRANSITION_CONFIGURE)
    state = call(peer, GetState, "/pose_node/get_state", GetState.Request())
    assert state.current_state.id == State.PRIMARY_STATE_UNCONFIGURED
    assert "cannot configure" in program.text and "movenet_nonsense" in program.text
    assert program.end() == 0


def test_damaged_weights_fail_configure_with_the_remedy_and_mended_ones_do_not(
    start: Any, peer: Any, tmp_path: Path
) -> None:
    shipped = find_card("movenet_lightning").folder
    for file in shipped.glob("movenet_lightning.*"):
        shutil.copy(file, tmp_path)
    weights = tmp_path / "movenet_lightning.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    program = start(graph.pose(**NET, autostart=False), POSE_ROS_MODELS=str(tmp_path))
    assert not change(peer, Transition.TRANSITION_CONFIGURE)
    assert "1000 bytes, card movenet_lightning says" in program.text
    assert "run: python -m pose_ros.tools.fetch movenet_lightning" in program.text
    shutil.copy(shipped / weights.name, weights)
    assert change(peer, Transition.TRANSITION_CONFIGURE)
    assert program.end() == 0


def resident_mb(program: Any) -> float:
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return int(next(x for x in status.splitlines() if x.startswith("VmRSS")).split()[1]) / 1024


def test_no_memory_is_kept_over_lives(start: Any, camera: Camera, peer: Any) -> None:
    program = start(graph.pose(**NET))
    camera.connect()
    resident: list[float] = []
    for _ in range(8):
        assert tracked(camera.walk(4)[-1])
        assert change(peer, Transition.TRANSITION_DEACTIVATE)
        assert change(peer, Transition.TRANSITION_CLEANUP)
        resident.append(resident_mb(program))
        assert change(peer, Transition.TRANSITION_CONFIGURE)
        assert change(peer, Transition.TRANSITION_ACTIVATE)
        camera.answers.clear()
        camera.connect()
    # The networks take 60 MB a time: were they kept, this would be 300 MB. Single values differ by
    # tens of MB, as the allocator pleases.
    assert min(resident[-3:]) - min(resident[:3]) < 60.0, resident
    assert program.end() == 0


def test_with_autostart_a_failure_ends_the_process(start: Any) -> None:
    program = start(graph.pose(**{**NET, "model.name": "movenet_nonsense"}))
    assert program.process.wait(60) == 1
    assert "movenet_nonsense" in program.text and "Traceback" not in program.text


def test_a_bad_parameter_ends_the_process_with_a_sentence(start: Any) -> None:
    program = start(graph.pose(**NET, **{"detect.interval": 0}))
    assert program.process.wait(60) == 1
    assert "detect.interval" in program.text and "1 to 60 frames" in program.text
    assert "Traceback" not in program.text
