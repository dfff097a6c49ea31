"""Rates, latencies, drops and errors, once per second on /diagnostics."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from pose_ros.msg import HumanPoseArray

WINDOW = 300  # frames that percentiles are taken of
HEALTH_NAMES = {
    HumanPoseArray.OK: "ok",
    HumanPoseArray.DEGRADED_NO_DEPTH: "no depth image: metres are a guess, or unknown",
    HumanPoseArray.DEGRADED_NO_CALIBRATION: "2-D only: camera not calibrated",
    HumanPoseArray.STALE_INPUT: "no images",
    HumanPoseArray.OVERLOADED: "overloaded: images are skipped",
}
BAD = (HumanPoseArray.STALE_INPUT, HumanPoseArray.OVERLOADED)


class Diagnostics:
    """Collects what the worker measures and says it once per second."""

    def __init__(self, hardware_id: str, facts: dict[str, str]) -> None:
        """Report for the camera ``hardware_id``; ``facts`` do not change."""
        self.health = HumanPoseArray.STALE_INPUT
        self._hardware_id = hardware_id
        self._facts = facts
        self._times_ms: dict[str, deque[float]] = {}
        self._frames = 0
        self._failed = 0
        self._lock = threading.Lock()

    def frame(self, times_ms: dict[str, float]) -> None:
        """Note the time of each stage for one answered image."""
        with self._lock:
            self._frames += 1
            for stage, value in times_ms.items():
                self._times_ms.setdefault(stage, deque(maxlen=WINDOW)).append(value)

    def message(
        self, stamp: Time, elapsed_s: float, counts: Mapping[str, float | str]
    ) -> DiagnosticArray:
        """Status of the ``elapsed_s`` since the last one; ``counts`` are totals."""
        with self._lock:
            rate = self._frames / max(elapsed_s, 1e-3)
            self._frames = 0
            rows = {stage: np.percentile(ms, (50, 95)) for stage, ms in self._times_ms.items()}
        values = {"rate_hz": f"{rate:.1f}", **{k: str(v) for k, v in counts.items()}}
        for stage, (median, high) in rows.items():
            values[f"{stage}_ms_p50"] = f"{median:.1f}"
            values[f"{stage}_ms_p95"] = f"{high:.1f}"
        failed = int(counts.get("failed", 0))
        failing, self._failed = failed > self._failed, failed
        words = "images cannot be used, see the log" if failing else HEALTH_NAMES[self.health]
        status = DiagnosticStatus(
            name="pose_ros: human pose",
            hardware_id=self._hardware_id,
            level=DiagnosticStatus.WARN if failing or self.health in BAD else DiagnosticStatus.OK,
            message=words,
            values=[KeyValue(key=k, value=v) for k, v in {**values, **self._facts}.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = stamp
        return array
