"""The lifecycle node: images in, ``/human_pose`` out; wiring only."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from pose_ros.build import build_pipeline
from pose_ros.core.config import PipelineConfig
from pose_ros.core.node_config import NodeConfig
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.values import PoseResult
from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.msg import HumanPoseArray
from pose_ros.nodes import conversions, parameters, process, ros_logging
from pose_ros.nodes.depth_input import DepthInput
from pose_ros.nodes.frames import OutputFrame
from pose_ros.nodes.health import Health
from pose_ros.nodes.inputs import ImageInput
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
        self._sequence = 0
        self._next_id = 1
        self._last_header = Header()
        self._last_result: PoseResult | None = None
        self._received_s = time.monotonic()
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
            self.frames: OutputFrame | None = None
            if self.settings.output_frame:
                self.frames = OutputFrame(
                    self, self.settings.output_frame, self.settings.tf_timeout_s
                )
        except PoseRosError as error:
            _log.error("cannot configure: %s", error)
            return FAILURE
        self.pipeline.tracker.next_id = self._next_id
        self.health = Health(self.settings.overload_share, self.settings.output_deadline_s)
        self.outputs = Outputs(self, self.settings, self.config.model.score_min)
        lifted = self.config.lift.source != "none"
        convention = self.config.joints.convention if lifted else "none"
        self.outputs.open(self.pipeline.skeleton, self.pipeline.net.facts, convention)
        self._offered = [
            self.create_service(Trigger, "~/reset_tracks", self._ask_reset),
            self.create_service(CalibratePerson, "~/calibrate_person", self._calibrate),
        ]
        return OK

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker."""
        self._active = True
        self.worker: Worker[Callable[[], None]] = Worker(self._work)
        self.worker.start()
        self.health.image_came()
        self.health.image_answered()
        self._apply_settings(self.settings)
        self._apply_config(self.config)
        compressed = self.settings.image_transport == "compressed"
        self.inputs = ImageInput(self, compressed, self._take_image)
        self.depth: DepthInput | None = None
        if self.settings.depth_transport != "none":
            skew_s = self.config.depth.max_skew_s
            self.depth = DepthInput(self, self.settings.depth_transport, skew_s)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._stale_timer = self.create_timer(
            self.settings.output_deadline_s / 2, self._tell_if_stale, clock=steady
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
        if self.depth is not None:
            self.depth.close()
        for timer in (self._stale_timer, self._report_timer, self._predict_timer):
            if timer is not None:
                self.destroy_timer(timer)
        self.worker.stop()
        self._publish(self.pipeline.finish())
        ended = self.pipeline.flush()
        self._last_result = None
        if len(ended.tracks):
            self.outputs.publish(ended, self._last_header, self._sequence, self.outputs.health)
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
        self.worker.offer(partial(self._answer, message))

    def _tell_if_stale(self) -> None:
        if self.health.stale:
            self.worker.offer_if_idle(self._coast)

    def _report(self) -> None:
        worker = self.worker
        self.health.count(worker.dropped, worker.done)
        self.inputs.watch(self.health.image_age_s)
        counts = {"frames": self._sequence, "skipped": worker.dropped, "failed": worker.failed}
        if self.frames is not None:
            counts["tf_failures"] = self.frames.failures
        self.outputs.report(counts | (self.depth.counts if self.depth is not None else {}))

    def _predict(self) -> None:
        if self._last_result is not None:
            ahead_ns = round(self.settings.predict.horizon_s * 1e9)
            stamp_ns = self.get_clock().now().nanoseconds + ahead_ns
            longest_s = self.config.filter.max_prediction_s
            self.outputs.publish_predicted(self._last_result, self._sequence, stamp_ns, longest_s)

    def _work(self, job: Callable[[], None]) -> None:
        """In the worker's thread: answer an image, or say that there is none."""
        if self._reset_asked:
            self._reset_asked = False
            self._publish(self.pipeline.finish())
            self.outputs.publish(
                self.pipeline.flush(), self._last_header, self._sequence, self.outputs.health
            )
        job()

    def _answer(self, message: Image | CompressedImage) -> None:
        start = time.monotonic()
        header = conversions.shifted(message.header, self.settings.stamp_offset_s)
        message.header = header
        frame = conversions.frame_from_image(message, self.inputs.camera)
        if self.depth is not None and frame.camera is not None:
            frame = dataclasses.replace(frame, depth=self.depth.of(frame.stamp_ns, frame.frame_id))
        decoded = time.monotonic()
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
            health = self.health.of_image(self.inputs.camera is not None, result.with_depth)
            camera = self.inputs.camera
            if self.frames is not None:
                result, header = self.frames.apply(result, header)
                camera = None  # its rays are of another frame
            self.outputs.publish(result, header, self._sequence, health, camera)
            self._last_result = result

    def _coast(self) -> None:
        self._publish(self.pipeline.finish())
        stamp_ns = conversions.ns_from_time(self._last_header.stamp)
        elapsed_ns = int((time.monotonic() - self._received_s) * 1e9)
        result, header = self.pipeline.coast(stamp_ns + elapsed_ns), self._last_header
        if self.frames is not None:
            result, header = self.frames.apply(result, header)
        self.outputs.publish(result, header, self._sequence, HumanPoseArray.STALE_INPUT)

    def _ask_reset(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self._reset_asked = True
        answer.success, answer.message = True, "every track ends with the next image"
        return answer

    def _calibrate(
        self, asked: CalibratePerson.Request, answer: CalibratePerson.Response
    ) -> CalibratePerson.Response:
        """Take a stature, and say what is known of a person's size."""
        embodier = self.pipeline.embodier
        known = self._last_result is not None and asked.id in self._last_result.tracks.ids
        if embodier is None or not known:
            answer.message = f"nobody is followed under id {asked.id}"
            answer.stature_m = float("nan")
            return answer
        try:
            size = embodier.sized(int(asked.id), asked.stature_m)
        except ConfigError as error:
            answer.message = str(error)
            return answer
        answer.success = True
        answer.stature_m, lengths, learned = size
        answer.segment_lengths, answer.learned = lengths.tolist(), learned.tolist()
        return answer

    def _apply_settings(self, settings: NodeConfig) -> None:
        self.settings = settings
        if self._active:
            self.health.overload_share = settings.overload_share

    def _apply_config(self, config: PipelineConfig) -> None:
        if self._active:
            self.pipeline.reconfigure(config)
            self.outputs.set_score_min(config.model.score_min)
        self.config = config


def main() -> int:
    """Run the node."""
    return process.run(PoseNode)
