"""The lifecycle node: images in, ``/human_pose`` out; wiring only."""

from __future__ import annotations

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
from pose_ros.errors import PoseRosError
from pose_ros.msg import HumanPoseArray
from pose_ros.nodes import conversions, parameters, process, ros_logging
from pose_ros.nodes.health import Health
from pose_ros.nodes.inputs import ImageInput
from pose_ros.nodes.outputs import Outputs
from pose_ros.nodes.worker import Worker

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
        except PoseRosError as error:
            _log.error("cannot configure: %s", error)
            return FAILURE
        self.pipeline.tracker.next_id = self._next_id
        facts = {
            "net": self.pipeline.net.name,
            "device": self.pipeline.net.device,
            "backend": self.pipeline.net.backend,
        }
        self.health = Health(self.settings.overload_share, self.settings.output_deadline_s)
        self.outputs = Outputs(self, self.settings, self.config.model.score_min)
        self.outputs.open(self.pipeline.skeleton, facts)
        self._service = self.create_service(Trigger, "~/reset_tracks", self._ask_reset)
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
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._stale_timer = self.create_timer(
            self.settings.output_deadline_s / 2, self._tell_if_stale, clock=steady
        )
        self._report_timer = self.create_timer(1.0, self._report, clock=steady)
        _log.info("waiting for images on %s", self.inputs.topic)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Answer what was accepted, end every track, forget everything."""
        self._active = False
        self.inputs.close()
        self.destroy_timer(self._stale_timer)
        self.destroy_timer(self._report_timer)
        self.worker.stop()
        ended = self.pipeline.flush()
        if len(ended.tracks):
            self.outputs.publish(ended, self._last_header, self._sequence, self.outputs.health)
        self.outputs.wait_until_read()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the networks and publishers."""
        self.outputs.close()
        self.destroy_service(self._service)
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
        self.outputs.report(
            {"frames": self._sequence, "skipped": worker.dropped, "failed": worker.failed}
        )

    def _work(self, job: Callable[[], None]) -> None:
        """In the worker's thread: answer an image, or say that there is none."""
        if self._reset_asked:
            self._reset_asked = False
            self.outputs.publish(
                self.pipeline.flush(), self._last_header, self._sequence, self.outputs.health
            )
        job()

    def _answer(self, message: Image | CompressedImage) -> None:
        start = time.monotonic()
        header = conversions.shifted(message.header, self.settings.stamp_offset_s)
        message.header = header
        frame = conversions.frame_from_image(message, self.inputs.camera)
        decoded = time.monotonic()
        result = self.pipeline.step(frame)
        result.stage_ms["decode_image"] = (decoded - start) * 1e3
        self._sequence += 1
        self._last_header, self._received_s = header, start
        health = self.health.of_image(frame.camera is not None)
        self.outputs.publish(result, header, self._sequence, health, frame.camera)
        self.health.image_answered()

    def _coast(self) -> None:
        stamp_ns = conversions.ns_from_time(self._last_header.stamp)
        elapsed_ns = int((time.monotonic() - self._received_s) * 1e9)
        result = self.pipeline.coast(stamp_ns + elapsed_ns)
        self.outputs.publish(result, self._last_header, self._sequence, HumanPoseArray.STALE_INPUT)

    def _ask_reset(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self._reset_asked = True
        answer.success, answer.message = True, "every track ends with the next image"
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
