"""The life of a node's process: start, spin, end cleanly."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Protocol

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from pose_ros.errors import PoseRosError


class Endable(Protocol):
    """What ``run`` asks of a node beside being one."""

    exit_status: int | None

    def close(self) -> None:
        """Finish what was accepted and free what is held."""
        ...

    def destroy_node(self) -> None:
        """As of ``rclpy.node.Node``."""
        ...


def run(make: Callable[[], Endable]) -> int:
    """Spin the node that ``make`` creates until SIGINT, SIGTERM or its ``exit_status``.

    The context stays valid until the node has closed, so that it can send its last messages.
    """
    stop = threading.Event()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = make()
        status = _spin(node, stop)
        node.destroy_node()
    except PoseRosError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 1
    finally:
        rclpy.try_shutdown()
    return status


def _spin(node: Endable, stop: threading.Event) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.is_set() and node.exit_status is None:
            executor.spin_once(timeout_sec=0.2)
    finally:
        executor.remove_node(node)
        node.close()
        executor.shutdown()
    return node.exit_status or 0
