"""Messages of packages that may be absent, field by field as their .msg files, and a node."""

import dataclasses
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from geometry_msgs.msg import TransformStamped
from std_msgs.msg import Header


@dataclass
class IdsList:
    header: Header = field(default_factory=Header)
    ids: list[str] = field(default_factory=list)


@dataclass
class NormalizedPointOfInterest2D:
    x: float = 0.0
    y: float = 0.0
    c: float = 0.0


@dataclass
class NormalizedRegionOfInterest2D:
    header: Header = field(default_factory=Header)
    xmin: float = 0.0
    ymin: float = 0.0
    xmax: float = 0.0
    ymax: float = 0.0
    c: float = 0.0


@dataclass
class Skeleton2D:
    NOSE = 0
    NECK = 1
    RIGHT_SHOULDER = 2
    RIGHT_ELBOW = 3
    RIGHT_WRIST = 4
    LEFT_SHOULDER = 5
    LEFT_ELBOW = 6
    LEFT_WRIST = 7
    RIGHT_HIP = 8
    RIGHT_KNEE = 9
    RIGHT_ANKLE = 10
    LEFT_HIP = 11
    LEFT_KNEE = 12
    LEFT_ANKLE = 13
    LEFT_EYE = 14
    RIGHT_EYE = 15
    LEFT_EAR = 16
    RIGHT_EAR = 17

    header: Header = field(default_factory=Header)
    skeleton: list[NormalizedPointOfInterest2D] = field(default_factory=list)


@dataclass
class TFMessage:
    transforms: list[TransformStamped] = field(default_factory=list)


HRI = (IdsList, NormalizedPointOfInterest2D, NormalizedRegionOfInterest2D, Skeleton2D)


def install(monkeypatch: pytest.MonkeyPatch, package: str, *kinds: type) -> ModuleType:
    """Make ``package.msg`` importable with these classes in it."""
    module = ModuleType(f"{package}.msg")
    for kind in kinds:
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, f"{package}.msg", module)
    return module


def uninstall(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make ``package`` impossible to import."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.msg", None)


@dataclass
class Publisher:
    """Keeps copies of what is published."""

    topic: str
    qos: Any
    sent: list[Any] = field(default_factory=list)
    readers: int = 1
    open: bool = True

    def publish(self, message: Any) -> None:
        assert self.open, f"{self.topic} is gone"
        plain = dataclasses.is_dataclass(message) and not isinstance(message, TFMessage)
        self.sent.append(dataclasses.replace(message) if plain else message)

    def get_subscription_count(self) -> int:
        return self.readers


@dataclass
class Subscription:
    """Knows whom to call with a message."""

    kind: type
    topic_name: str
    callback: Any
    open: bool = True


class Node:
    """Hands out publishers and subscriptions that talk to nobody, by topic."""

    def __init__(self) -> None:
        self.publishers: dict[str, Publisher] = {}
        self.readers: dict[str, Subscription] = {}

    def create_subscription(self, kind: type, topic: str, callback: Any, qos: Any) -> Subscription:
        self.readers[topic] = Subscription(kind, topic, callback)
        return self.readers[topic]

    def destroy_subscription(self, subscription: Subscription) -> None:
        subscription.open = False

    def hear(self, topic: str, message: Any) -> None:
        reader = self.readers[topic]
        assert reader.open and isinstance(message, reader.kind)
        reader.callback(message)

    def create_publisher(self, kind: type, topic: str, qos: Any) -> Publisher:
        self.publishers[topic] = Publisher(topic, qos)
        return self.publishers[topic]

    def destroy_publisher(self, publisher: Publisher) -> None:
        publisher.open = False

    def sent(self, topic: str) -> list[Any]:
        return self.publishers[topic].sent


class TransformException(Exception):
    """As of tf2_ros."""


class Buffer:
    """As of tf2_ros; knows the transforms of ``known``: (target, source, stamp_ns) to x … qw."""

    known: ClassVar[dict[tuple[str, str, int], tuple[float, ...]]] = {}
    asked: ClassVar[list[tuple[str, str, int]]] = []

    def lookup_transform(self, target: str, source: str, when: Any, timeout: Any) -> Any:
        key = (target, source, when.nanoseconds)
        self.asked.append(key)
        if key not in self.known:
            raise TransformException("extrapolation into the future")
        numbers = self.known[key]
        vector = SimpleNamespace(**dict(zip("xyz", numbers[:3], strict=True)))
        turn = SimpleNamespace(**dict(zip("xyzw", numbers[3:], strict=True)))
        return SimpleNamespace(transform=SimpleNamespace(translation=vector, rotation=turn))


@dataclass
class TransformListener:
    """As of tf2_ros."""

    buffer: Buffer
    node: Any
    listeners: ClassVar[list[Any]] = []

    def __post_init__(self) -> None:
        self.listeners.append(self)

    def unregister(self) -> None:
        self.listeners.remove(self)


def tf2(known: dict[tuple[str, str, int], tuple[float, ...]]) -> Any:
    """A tf2_ros that knows these transforms."""
    Buffer.known, Buffer.asked = known, []
    TransformListener.listeners = []
    return SimpleNamespace(
        Buffer=Buffer, TransformListener=TransformListener, TransformException=TransformException
    )
