"""Node tests: real processes over DDS, confined to this machine, in a domain of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run scripts/test")
pytest.importorskip("pose_ros.msg", reason="needs the built package: run scripts/test")

import rclpy
from domain_coordinator import domain_id
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from pose_ros import graph

sys.path.insert(0, str(Path(__file__).parent))
START_S, GONE_S = 60.0, 10.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.fspath).parents:
            item.add_marker(pytest.mark.ros)


class Peer:
    """A node in the test's own process."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        self.node = Node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def spin_until(self, done: Callable[[], object], timeout_s: float = START_S) -> bool:
        limit = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > limit:
                return False
            self.executor.spin_once(timeout_sec=0.02)
        return True

    def spin_for(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


class Program:
    """A node executable in a process of its own."""

    def __init__(self, spec: graph.NodeSpec, folder: Path, domain: int, **env: str) -> None:
        self.log = folder / f"{spec.name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                graph.command(spec), stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "ROS_DOMAIN_ID": str(domain), **env},
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self.log.read_text()

    def end(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(15)


@pytest.fixture(scope="module")
def domain() -> Iterator[int]:
    with domain_id() as number:
        yield number


@pytest.fixture(scope="module")
def peer(domain: int) -> Iterator[Peer]:
    peer = Peer(domain)
    yield peer
    peer.close()


@pytest.fixture(scope="module")
def start(
    domain: int, peer: Peer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start(spec: graph.NodeSpec, **env: str) -> Program:
        # A service of the last one of this name, not yet known to be gone, would swallow a call.
        peer.spin_until(lambda: spec.name not in peer.node.get_node_names(), GONE_S)
        programs.append(Program(spec, tmp_path_factory.mktemp("node"), domain, **env))
        return programs[-1]

    yield start
    for program in programs:
        program.end()
