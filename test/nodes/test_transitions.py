"""Transitions that go wrong in ways that nobody foresaw: the reason is said."""

from types import SimpleNamespace
from typing import Any

import pytest

from pose_ros.core.config import PipelineConfig
from pose_ros.errors import ConfigError
from pose_ros.nodes import pose_node
from pose_ros.nodes.pose_node import FAILURE, PoseNode


def configure(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Any:
    """Configure when the networks cannot be built."""

    def build_pipeline(config: PipelineConfig) -> None:
        raise error

    monkeypatch.setattr(pose_node, "build_pipeline", build_pipeline)
    node: Any = SimpleNamespace(config=PipelineConfig(), frames=None)
    return PoseNode.on_configure(node, None)  # type: ignore[arg-type]


def test_what_nobody_foresaw_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that raises leads to ErrorProcessing; rclpy does not say why."""
    with pytest.raises(RuntimeError):
        configure(monkeypatch, RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    (record,) = caplog.records
    want = "cannot configure: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"
    assert record.getMessage() == want


def test_a_wrong_setting_is_no_error_but_a_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert configure(monkeypatch, ConfigError("no such network")) == FAILURE
    assert caplog.records[0].getMessage() == "cannot configure: no such network"
