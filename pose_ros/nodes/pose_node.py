"""The lifecycle node: images in, ``/human_pose`` out; wiring only."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from pose_ros.build import build_pipeline
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig
from pose_ros.core.depth import parse_extrinsics
from pose_ros.core.node_config import NodeConfig
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.values import PoseResult, TrackState
from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.msg import HumanPoseArray
from pose_ros.nodes import conversions, parameters, process, ros_logging
from pose_ros.nodes.body_tf import tf_type
from pose_ros.nodes.calibration import Calibrations
from pose_ros.nodes.depth_input import DepthInput
from pose_ros.nodes.frames import OutputFrame
from pose_ros.nodes.health import ASKED_PER_DEADLINE, BUSY_SILENCE, IDLE_SILENCE, Health
from pose_ros.nodes.imu_input import ImuInput
from pose_ros.nodes.inputs import ImageInput
from pose_ros.nodes.level_frame import LevelFrame, LevelTf
from pose_ros.nodes.outputs import Outputs
from pose_ros.nodes.worker import Worker
from pose_ros.srv import CalibratePerson

OK, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_log = logging.getLogger(__name__)


class PoseNode(LifecycleNode):
    """Answers every image it has time for; the newest wins."""

    def __init__(self) -> None:
        """Declare the parameters; ``autostart`` configures and activates from the executor."""
        super().__init__("pose_node")
        ros_logging.forward(self.get_logger())
        self.exit_status: int | None = None
        self.settings = parameters.declare(self, NodeConfig())
        self.config = parameters.declare(self, PipelineConfig())
        parameters.on_change(self, lambda: self.settings, self._apply_settings)
        parameters.on_change(self, lambda: self.config, self._apply_config)
        self._active = False
        self._reset_asked = False
        self._enabled = True
        self._sequence = 0
        self._next_id = 1
        self._last_header = Header()
        self._last_result: PoseResult | None = None
        self._last_answer: PoseResult | None = None  # to an image: what is ahead follows from it
        self._calibrations = Calibrations()
        self._apart = ReentrantCallbackGroup()  # of services that may take seconds
        self._received_s = time.monotonic()
        self.depth: DepthInput | None = None
        self.imus: ImuInput | None = None
        self.frames: OutputFrame | LevelFrame | None = None
        self._camera: PinholeCamera | None = None  # that took the last image
        if self.settings.autostart:
            self._start_timer = self.create_timer(0.0, self._autostart)

    def _autostart(self) -> None:
        self.destroy_timer(self._start_timer)
        if self.trigger_configure() != OK or self.trigger_activate() != OK:
            self.exit_status = 1

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the networks and create the publishers."""
        try:
            self.pipeline: PosePipeline = build_pipeline(self.config)
            parse_extrinsics(self.config.depth.extrinsics)
            self.frames = self._open_frames()
            self.outputs = Outputs(self, self.settings, self.config.model.score_min)
            lifted = self.config.lift.source != "none"
            convention = self.config.joints.convention if lifted else "none"
            frame = "" if self.frames is None else self.frames.frame
            self.outputs.open(self.pipeline.skeleton, self.pipeline.facts, convention, frame)
        except PoseRosError as error:
            _log.error("cannot configure: %s", error)
            if self.frames is not None:
                self.frames.close()
                self.frames = None
            return FAILURE
        except Exception as error:  # full GPU memory, for one; rclpy drops the reason
            _log.error("cannot configure: %s: %s", type(error).__name__, error)
            raise
        self.pipeline.tracker.next_id = self._next_id
        self.health = Health(self.settings.overload_share, self.settings.output_deadline_s)
        self._offered = [
            self.create_service(Trigger, "~/reset_tracks", self._ask_reset),
            self.create_service(SetBool, "~/set_enabled", self._set_enabled),
            self.create_service(
                CalibratePerson,
                "~/calibrate_person",
                self._calibrate,
                callback_group=self._apart,
            ),
        ]
        return OK

    def _open_frames(self) -> OutputFrame | LevelFrame | None:
        """Return what moves metres out of the camera's frame.

        Raises:
            ConfigError: two frames are asked for, or one that cannot be.

        """
        wanted, level = self.settings.output_frame, self.config.imu.level_frame
        if wanted and level:
            raise ConfigError(
                f"output_frame '{wanted}' and imu.level_frame '{level}': give one of them"
            )
        if level:
            embodier, tf = self.pipeline.embodier, None
            camera = None if embodier is None else embodier.ego
            if camera is not None and self.settings.tf != "none":
                tf = self._level_tf(level)
            return LevelFrame(level, camera, tf)
        return OutputFrame(self, wanted, self.settings.tf_timeout_s) if wanted else None

    def _level_tf(self, frame: str) -> LevelTf | None:
        """Return what tells TF of the level frame; None where tf2_msgs is not installed."""
        try:
            return LevelTf(self, tf_type(), frame)
        except ImportError:
            _log.info("tf2_msgs is not installed: frame '%s' is not put on /tf", frame)
            return None

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker."""
        self._active = self._enabled = True
        self.worker: Worker[Callable[[], None]] = Worker(self._work)
        self.worker.start()
        self.health.image_came()
        self.health.image_answered()
        self._apply_settings(self.settings)
        self._apply_config(self.config)
        compressed = self.settings.image_transport == "compressed"
        rectified = self.settings.image_rectified
        self.inputs = ImageInput(self, compressed, self._take_image, rectified)
        self.depth = None
        if self.settings.depth_transport != "none":
            self.depth = DepthInput(
                self, self.settings.depth_transport, self.config.depth.max_skew_s,
                extrinsics=self.config.depth.extrinsics,
                tf_timeout_s=self.settings.tf_timeout_s, offset_s=self.settings.stamp_offset_s,
            )  # fmt: skip
        ego, embodier = self.pipeline.ego, self.pipeline.embodier
        worn = None if embodier is None else embodier.body
        by_tf = self.config.imu.axes == "auto"
        self.imus = None if ego is None and worn is None else ImuInput(self, ego, worn, by_tf)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._stale_timer = self.create_timer(
            self.settings.output_deadline_s / ASKED_PER_DEADLINE, self._tell_if_stale, clock=steady
        )
        self._report_timer = self.create_timer(1.0, self._report, clock=steady)
        rate_hz = self.settings.predict.rate_hz
        self._predict_timer = (
            self.create_timer(1.0 / rate_hz, self._predict, clock=steady) if rate_hz else None
        )
        _log.info("waiting for images on %s", self.inputs.topic)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Answer what was accepted, end every track, forget everything."""
        self._active = False
        self.inputs.close()
        self.worker.stop()  # before what its last jobs read
        for source in (self.depth, self.imus):
            if source is not None:
                source.close()
        for timer in (self._stale_timer, self._report_timer, self._predict_timer):
            if timer is not None:
                self.destroy_timer(timer)
        self._calibrations.close("pose_node was deactivated")
        self._publish(self.pipeline.finish())
        ended = self.pipeline.flush()
        if len(ended.tracks):
            self._tell(ended, self.outputs.health)
        self._last_result = self._last_answer = None
        self.outputs.wait_until_read()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the networks and publishers."""
        self.outputs.close()
        if self.frames is not None:
            self.frames.close()
        for service in self._offered:
            self.destroy_service(service)
        self._next_id = self.pipeline.tracker.next_id
        del self.pipeline
        return OK

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish as on deactivation."""
        return self.on_deactivate(state) if self._active else OK

    def close(self) -> None:
        """Finish what was accepted; called when the process ends."""
        if self._active:
            self.trigger_deactivate()

    def _take_image(self, message: Image | CompressedImage) -> None:
        self.health.image_came()
        if self._enabled:
            self.worker.offer(partial(self._answer, message))

    def _tell_if_stale(self) -> None:
        deadline_s = self.settings.output_deadline_s
        silent = self.outputs.silent_s >= IDLE_SILENCE * deadline_s
        if silent and self.health.stale and self.worker.offer_if_idle(self._coast):
            return
        self.outputs.repeat(BUSY_SILENCE * deadline_s)

    def _report(self) -> None:
        worker = self.worker
        self.health.count(worker.dropped, worker.done)
        self.inputs.watch(self.health.image_age_s)
        people = len(self._followed())
        counts: dict[str, float | str] = {
            "received": self.inputs.received,
            "incompatible_qos": self.inputs.incompatible,
            "calibrated": str(self._camera is not None).lower(),
            "people": people,
            "frames": self._sequence,
            "skipped": worker.dropped,
            "failed": worker.failed,
            "enabled": str(self._enabled).lower(),
        }
        if self.frames is not None:
            counts["tf_failures"] = self.frames.failures
        if self.depth is not None:
            counts |= self.depth.counts
        if self.imus is not None:
            counts |= self.imus.report()
        self.outputs.report(counts)

    def _predict(self) -> None:
        last = self._last_answer  # the worker may forget it meanwhile
        if last is not None:
            ahead_ns = round(self.settings.predict.horizon_s * 1e9)
            stamp_ns = self.get_clock().now().nanoseconds + ahead_ns
            limits_s = self.config.filter.max_prediction_s, self.config.track.max_lost_s
            self.outputs.publish_predicted(last, self._sequence, stamp_ns, limits_s)

    def _work(self, job: Callable[[], None]) -> None:
        """In the worker's thread: answer an image, or say that there is none."""
        if self._reset_asked:
            self._reset_asked = False
            self._publish(self.pipeline.finish())
            self._tell(self.pipeline.flush(), self.outputs.health)
            self._last_result = self._last_answer = None
        self._calibrations.serve(self.pipeline.embodier, self._followed(), time.monotonic())
        job()

    def _followed(self) -> set[int]:
        """Ids of the people who are followed now."""
        last = self._last_result  # another thread may replace it meanwhile
        if last is None:
            return set()
        tracks = last.tracks
        return set(tracks.ids[tracks.state != TrackState.LOST].tolist())

    def _answer(self, message: Image | CompressedImage) -> None:
        start = time.monotonic()
        header = conversions.shifted(message.header, self.settings.stamp_offset_s)
        message.header = header
        frame = conversions.frame_from_image(message, self.inputs.camera)
        self._camera = frame.camera
        if self.depth is not None and frame.camera is not None:
            frame = dataclasses.replace(frame, depth=self.depth.of(frame.stamp_ns, frame.frame_id))
        decoded = time.monotonic()
        if self.imus is not None:
            self.imus.drain(frame.stamp_ns, frame.frame_id)
        self.outputs.see(frame)
        results = self.pipeline.push(frame, hurried=self.worker.behind)
        self._last_header, self._received_s = header, start
        for result in results:
            result.stage_ms["decode_image"] = (decoded - start) * 1e3
        self._publish(results)
        self.health.image_answered()

    def _publish(self, results: list[PoseResult]) -> None:
        """Send answers under the stamps of the images that they answer."""
        for result in results:
            header = Header(
                stamp=conversions.time_from_ns(result.stamp_ns), frame_id=result.frame_id
            )
            self._sequence += 1
            camera = self._camera
            health = self.health.of_image(camera is not None, result.with_depth)
            if self.frames is not None:
                result, header = self.frames.apply(result, header)
                camera = None  # its rays are of another frame
            self.outputs.publish(result, header, self._sequence, health, camera)
            self._last_result = self._last_answer = result

    def _coast(self) -> None:
        if self.imus is not None:
            self.imus.drain()
        if not self.health.stale:  # an image was answered since this was asked for
            return
        self._publish(self.pipeline.finish())
        stamp_ns = conversions.ns_from_time(self._last_header.stamp)
        elapsed_ns = int((time.monotonic() - self._received_s) * 1e9)
        self._tell(self.pipeline.coast(stamp_ns + elapsed_ns), HumanPoseArray.STALE_INPUT)

    def _tell(self, result: PoseResult, health: int) -> None:
        """Send what is known without an image, under the header of the last one."""
        header = self._last_header
        result = dataclasses.replace(result, frame_id=header.frame_id)
        if self.frames is not None:
            result, header = self.frames.apply(result, header)
        self.outputs.publish(result, header, self._sequence, health)
        self._last_result = result

    def _set_enabled(self, asked: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        """Look at images, or at none: then as if none came, STALE_INPUT and LOST."""
        self._enabled = asked.data
        answer.success = True
        answer.message = "images are answered" if asked.data else "images are not looked at"
        return answer

    def _ask_reset(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self._reset_asked = True
        answer.success, answer.message = True, "every track ends with the next image"
        return answer

    async def _calibrate(
        self, asked: CalibratePerson.Request, answer: CalibratePerson.Response
    ) -> CalibratePerson.Response:
        """Take a stature, or measure a person, and say what is known of the person's size."""
        if not self._active:
            answer.message, answer.stature_m = "pose_node is not active", float("nan")
            return answer
        done = self._calibrations.ask(asked, answer, self.executor)
        self.worker.offer_if_idle(lambda: None)  # the worker looks at it before any job
        return await done

    def _apply_settings(self, settings: NodeConfig) -> None:
        self.settings = settings
        if self._active:
            self.health.overload_share = settings.overload_share

    def _apply_config(self, config: PipelineConfig) -> None:
        if self._active:
            self.pipeline.reconfigure(config)
            self.outputs.set_score_min(config.model.score_min)
            if self.depth is not None:
                self.depth.max_skew_s = config.depth.max_skew_s
        self.config = config


def main() -> int:
    """Run the node."""
    return process.run(PoseNode)
