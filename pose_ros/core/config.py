"""Every parameter of the pipeline, declared once: default, unit, range and meaning.

The ROS parameters, ``config/pose.yaml``, the command-line options and the table in the README
are all derived from these dataclasses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pose_ros.errors import ConfigError

Config = TypeVar("Config")


def param(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    ge: float | None = None,
    le: float | None = None,
    one_of: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """Declare a parameter: a dataclass field that carries its documentation and range.

    ``ge`` and ``le`` are the inclusive range, ``one_of`` the allowed words; ``live`` parameters
    may change while the node is active, the others need a reconfigure.
    """
    metadata = {"doc": doc, "unit": unit, "ge": ge, "le": le, "one_of": one_of, "live": live}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DetectConfig:
    """Finding people in the whole image."""

    net: str = param("nanodet_g", "Detector, the name of a card in models/")
    threshold: float = param(
        0.25, "Boxes with a lower score are ignored", ge=0.01, le=1.0, live=True
    )
    interval: int = param(
        5, "Run the detector on every n-th frame; tracks carry the people between",
        unit="frames", ge=1, le=60, live=True,
    )  # fmt: skip
    iou: float = param(
        0.65, "Boxes that overlap a better one by more are duplicates", ge=0.1, le=0.95, live=True
    )


@dataclass(frozen=True)
class TrackConfig:
    """Keeping one id per person."""

    max_people: int = param(
        8, "People followed at once; the best scores win", unit="people", ge=1, le=64, live=True
    )
    min_hits: int = param(
        3, "Measurements before a track counts as a person", unit="frames", ge=1, le=30, live=True
    )
    pose_min: float = param(
        0.3, "Least mean score of the better half of the joints for a new person to count",
        ge=0.0, le=1.0, live=True,
    )  # fmt: skip
    max_lost_s: float = param(
        1.0, "A track without a measurement for longer is LOST", unit="s", ge=0.05, le=30.0,
        live=True,
    )  # fmt: skip
    match_min: float = param(
        0.2, "Least similarity (box IoU and pose OKS) to continue a track", ge=0.01, le=0.9,
        live=True,
    )  # fmt: skip


@dataclass(frozen=True)
class WindowConfig:
    """The frames a video network sees of each person."""

    max_gap_s: float = param(
        0.5, "A longer gap between frames starts the window anew", unit="s", ge=0.02, le=10.0
    )
    box_hold: int = param(
        8, "Longest time a crop box is held still so that features can be reused",
        unit="frames", ge=0, le=120,
    )  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """The pose network."""

    name: str = param("movenet_robust", "Pose network, the name of a card in models/")
    latency_mode: str = param(
        "auto", "Frames a video network waits for after the one it answers; auto: its card's",
        one_of=("auto", "causal", "delayed_1", "delayed_2", "delayed_3"),
    )  # fmt: skip
    score_min: float = param(
        0.2, "Joints with a lower score are published as MISSING", ge=0.0, le=1.0, live=True
    )


@dataclass(frozen=True)
class FilterConfig:
    """Making joints smooth and complete over time (APRS)."""

    type: str = param(
        "aprs", "aprs: smooth joints, unseen ones filled in; none: every image for itself",
        one_of=("aprs", "none"),
    )  # fmt: skip
    max_prediction_s: float = param(
        0.3, "A joint unseen for longer is MISSING", unit="s", ge=0.0, le=2.0
    )
    lag: int = param(
        0, "Frames that an answer waits for later ones, which make its joints steadier",
        unit="frames", ge=0, le=3,
    )  # fmt: skip
    ground: str = param(
        "", "Floor, which pushes up knees and ankles below it: how high the camera is above it "
        "(m; imu.enable tells where up is), or a plane 'a b c d' in the camera's optical frame, "
        "a x + b y + c z + d >= 0 above it; empty: none is known",
    )  # fmt: skip


@dataclass(frozen=True)
class DepthConfig:
    """Reading joints from a depth image."""

    min_m: float = param(0.3, "Nearer readings are ignored", unit="m", ge=0.05, le=10.0, live=True)
    max_m: float = param(8.0, "Further readings are ignored", unit="m", ge=0.5, le=50.0, live=True)
    max_skew_s: float = param(
        0.03, "A depth image of another time by more is not used", unit="s", ge=0.0, le=1.0,
        live=True,
    )  # fmt: skip
    score_min: float = param(
        0.2, "Joints with a lower score are not looked for in the depth image", ge=0.0, le=1.0,
        live=True,
    )  # fmt: skip
    extrinsics: str = param(
        "", "Place of a depth camera that is not the colour camera, in the colour camera's "
        "optical frame: 'x y z qx qy qz qw' (m), or 'identity'; empty: as TF says",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse a value out of range."""
        validate(self)


@dataclass(frozen=True)
class LiftConfig:
    """From pixels to metres; nothing is lifted without a calibrated camera."""

    source: str = param(
        "auto", "auto: depth where there is some, else a guess from one image; mono: the guess "
        "only; depth: depth only; none: pixels only", one_of=("auto", "depth", "mono", "none"),
    )  # fmt: skip
    net: str = param("lift_mono", "Network of the guess, the name of a card in models/")
    stature_m: float = param(
        1.70, "How tall people are taken to be where there is no depth", unit="m", ge=0.4, le=2.6
    )
    stature_std: float = param(
        0.05, "Standard deviation of that, as a share", ge=0.0, le=0.5
    )  # fmt: skip


@dataclass(frozen=True)
class JointsConfig:
    """Joint angles."""

    convention: str = param(
        "rep155", "Angles on /human_pose/joint_angles: rep155 (robots), isb (clinical) or none",
        one_of=("rep155", "isb", "none"),
    )  # fmt: skip


@dataclass(frozen=True)
class ImuConfig:
    """Inertial sensors on the camera and on people."""

    enable: bool = param(
        False, "Use inertial sensors: the camera's, on topic imu, and those of imu.topic_map"
    )
    topic_map: str = param(
        "", "YAML file of the sensors that somebody wears, on topics imu/<sensor>; empty: "
        "nobody does",
    )  # fmt: skip
    axes: str = param(
        "auto", "How the camera's sensor sits: its axes are the image's (optical: x right, y "
        "down, z ahead), the housing's (rep103: x ahead, y left, z up), or nine numbers, row by "
        "row, that turn its axes into the image's; auto: as TF says of the frames in the headers, "
        "optical without TF; none: the camera has no sensor and stands still"
    )  # fmt: skip
    offset_s: float = param(
        0.0, "Added to an image's stamp to get the sensor's stamp of that moment", unit="s",
        ge=-1.0, le=1.0,
    )  # fmt: skip
    find_offset: bool = param(
        True, "Where imu.offset_s is 0, find it by comparing the pictures' turning with the "
        "sensor's (needs imu.check), and use it once it is sure"
    )  # fmt: skip
    check: bool = param(True, "Turn nothing before the pictures agreed with the camera's sensor")
    align_windows: bool = param(
        True, "Show a video network the frames of a window as one camera would that did not turn"
    )
    level_frame: str = param(
        "", "Frame of everything metric: at the camera, z up by gravity, x where it looks along "
        "the ground; empty: the camera's own, or output_frame",
    )  # fmt: skip
    tilt_deg: float = param(
        0.0, "Without a sensor on the camera (axes none): how far it looks down", unit="deg",
        ge=-90.0, le=90.0,
    )  # fmt: skip


@dataclass(frozen=True)
class PipelineConfig:
    """All of the pipeline."""

    device: str = param("auto", "Where networks run: auto, cpu, cuda or cuda:N")
    threads: int = param(
        0, "CPU threads per network; 0 means all cores", unit="threads", ge=0, le=256
    )
    detect: DetectConfig = field(default_factory=DetectConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    lift: LiftConfig = field(default_factory=LiftConfig)
    joints: JointsConfig = field(default_factory=JointsConfig)
    imu: ImuConfig = field(default_factory=ImuConfig)

    def __post_init__(self) -> None:
        """Refuse a value out of range, and what nothing would do.

        Raises:
            ConfigError: a lag or a floor without a filter, or a floor that is none.

        """
        validate(self)
        ground_of(self.filter.ground)
        if self.filter.type == "none" and (self.filter.lag or self.filter.ground):
            raise ConfigError("filter.lag and filter.ground: need filter.type aprs, got 'none'")


def ground_of(text: str) -> float | tuple[float, ...] | None:
    """Parameter ``filter.ground``: a height (m), a plane of four numbers, None for none.

    The plane's normal is made a unit vector, its offset metres.

    Raises:
        ConfigError: it is none of these, or the height is not 0.01 to 50 m.

    """
    if not text.strip():
        return None
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and 0.01 <= numbers[0] <= 50.0:
        return numbers[0]
    size = math.sqrt(sum(n * n for n in numbers[:3]))
    if len(numbers) == 4 and math.isfinite(sum(numbers)) and size > 1e-6:
        return tuple(n / size for n in numbers)
    raise ConfigError(
        f"filter.ground: expected a height of 0.01 to 50 m or a plane 'a b c d', got '{text}'"
    )


def parameters(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Walk the dotted name, field and value of every parameter of a nested config."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from parameters(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item, value


def check_value(name: str, item: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a value of another type or out of range.

    Raises:
        ConfigError: with the name, what was expected, what came.

    """
    expected = type(item.default)
    number = expected is float and isinstance(value, int) and not isinstance(value, bool)
    if type(value) is not expected and not number:
        raise ConfigError(f"{name}: expected {expected.__name__}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name}: expected a finite number, got {value}")
    low, high, words = (item.metadata.get(key) for key in ("ge", "le", "one_of"))
    if (low is not None and value < low) or (high is not None and value > high):
        unit = f" {item.metadata['unit']}" if item.metadata.get("unit") else ""
        raise ConfigError(f"{name}: expected {low} to {high}{unit}, got {value}")
    if words and value not in words:
        raise ConfigError(f"{name}: expected one of {', '.join(words)}, got '{value}'")


def validate(config: Any) -> None:
    """Check every parameter of a nested config.

    Raises:
        ConfigError: for the first value that is out of range or of another type.

    """
    for name, item, value in parameters(config):
        check_value(name, item, value)


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """Copy ``config`` with the dotted ``values`` replaced.

    Raises:
        ConfigError: for an unknown name or a bad value.

    """
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    known = {item.name for item in dataclasses.fields(config)}  # type: ignore[arg-type]
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if head not in known:
            raise ConfigError(
                f"parameter '{name}' is not known; known: {', '.join(sorted(known))}"
            )
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            own[head] = value
    for head, part in nested.items():
        own[head] = with_values(getattr(config, head), part)
    changed: Config = dataclasses.replace(config, **own)  # type: ignore[type-var]
    validate(changed)
    return changed
