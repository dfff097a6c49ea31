"""Images between two processes over DDS: how many arrive, and how late.

``python -m pose_ros.nodes.transport_bench`` publishes, starts a second process that subscribes,
and writes one JSON line: what was sent, what was received, publish-to-callback times.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from pose_ros.nodes import conversions

TOPIC = "transport_bench"
MATCH_S = 15.0
QUIET_S = 1.0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--width", type=int, default=640, help="pixels (default %(default)s)")
    add("--height", type=int, default=480, help="pixels (default %(default)s)")
    add("--rate", type=float, default=30.0, help="images per second (default %(default)s)")
    add("--seconds", type=float, default=5.0, help="how long to send (default %(default)s)")
    add("--reliability", choices=("best_effort", "reliable"), default="best_effort",
        help="QoS of both sides (default %(default)s)")  # fmt: skip
    add("--subscribe", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, or be the subscribing process; 0 only if images were received."""
    args = parse(argv)
    rclpy.init(args=[])
    node = Node("bench_reader" if args.subscribe else "bench_writer")
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy[args.reliability.upper()])
    try:
        return _subscribe(node, qos) if args.subscribe else _publish(node, qos, args)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _publish(node: Node, qos: QoSProfile, args: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "pose_ros.nodes.transport_bench", "--subscribe",
               "--reliability", args.reliability]  # fmt: skip
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    publisher = node.create_publisher(Image, TOPIC, qos)
    assert reader.stdout is not None
    reader.stdout.readline()  # it says that it is connected; the writer's own view follows
    limit_s = time.monotonic() + MATCH_S
    while not publisher.get_subscription_count() and time.monotonic() < limit_s:
        rclpy.spin_once(node, timeout_sec=0.02)
    sent = _send(node, publisher, args)
    output, _ = reader.communicate(timeout=MATCH_S + QUIET_S)
    row = {"width": args.width, "height": args.height, "rate_hz": args.rate,
           "reliability": args.reliability, "sent": sent}  # fmt: skip
    row.update(json.loads(output.splitlines()[-1]))
    sys.stdout.write(json.dumps(row) + "\n")
    return 0 if row["received"] else 1


def _send(node: Node, publisher: rclpy.publisher.Publisher, args: argparse.Namespace) -> int:
    count = max(1, round(args.seconds * args.rate))
    pixels = np.random.default_rng(0).integers(0, 255, (args.height, args.width, 3), np.uint8)
    start = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, start + index / args.rate - time.monotonic()))
        message = conversions.image_from_pixels(pixels, "bgr8", Header())
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    return count


def _subscribe(node: Node, qos: QoSProfile) -> int:
    late_ms: list[float] = []

    def take(message: Image) -> None:
        now_ns = node.get_clock().now().nanoseconds
        late_ms.append((now_ns - conversions.ns_from_time(message.header.stamp)) * 1e-6)

    node.create_subscription(Image, TOPIC, take, qos)
    limit_s = time.monotonic() + MATCH_S
    while not node.count_publishers(TOPIC) and time.monotonic() < limit_s:
        rclpy.spin_once(node, timeout_sec=0.02)
    sys.stdout.write("connected\n")
    sys.stdout.flush()
    last, count = time.monotonic(), 0
    while time.monotonic() - last < (QUIET_S if late_ms else MATCH_S):
        rclpy.spin_once(node, timeout_sec=0.1)
        if len(late_ms) != count:
            last, count = time.monotonic(), len(late_ms)
    median, high = np.percentile(late_ms, (50, 99)).round(2).tolist() if late_ms else (None, None)
    row = {"received": count, "median_ms": median, "p99_ms": high}
    sys.stdout.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
