"""A rendered pan through the pipeline: windows that fit together, joints where they are."""

from __future__ import annotations

import numpy as np
import panned
import pytest
from panned import DotNet, dot_px, film, sensor, shown

from pose_ros.core.ego import EgoMotion
from pose_ros.core.ego_check import EgoCheck
from pose_ros.core.imu import Imu
from pose_ros.core.values import PoseResult

HIPS = [11, 12]


def off_px(results: list[PoseResult]) -> float:
    """Largest error of the hips' middle, in the key frames' own pixels."""
    hips = np.array([result.poses.xy_px[0, HIPS].mean(axis=0) for result in results])
    here = panned.STANDING[HIPS].mean(axis=0) * panned.HEIGHT_PX
    true = np.array([dot_px(picture) + here for picture in film()[1]])
    return float(np.linalg.norm(hips - true, axis=1).max())


@pytest.fixture(scope="module")
def plain() -> tuple[DotNet, list[PoseResult]]:
    return shown(None, stream=True)


@pytest.mark.parametrize("stream", [False, True], ids=["whole windows", "kept features"])
def test_windows_of_a_pan_are_aligned_to_half_a_pixel(
    stream: bool, plain: tuple[DotNet, list[PoseResult]]
) -> None:
    net, results = shown(EgoMotion(sensor()), stream)
    assert max(net.spread_px) < 0.5 < 30.0 < max(plain[0].spread_px)
    assert off_px(results) < 0.5
    assert {tuple(result.tracks.ids.tolist()) for result in results} == {(1,)}


def test_held_crops_stay_on_the_person_so_fewer_are_encoded(
    plain: tuple[DotNet, list[PoseResult]],
) -> None:
    net, _ = shown(EgoMotion(sensor()), stream=True)
    assert net.encoded < 0.5 * plain[0].encoded


def test_what_is_kept_of_a_crop_is_found_again_after_the_reference_changed() -> None:
    """A stand-in for a memory: the dot's place by the affines that the stream is told."""
    net, _ = shown(EgoMotion(sensor()), stream=True)
    places = [
        np.frombuffer(name, np.float32).reshape(2, 3) @ np.append(where, 1.0)
        for (name, _), where in net.kept.items()
    ]
    moved = np.linalg.norm(np.array(places) - places[0], axis=1).max()
    swing = np.ptp([dot_px(picture)[0] for picture in film()[1]])
    assert moved < 2.0 < 100.0 < swing


def same(a: list[PoseResult], b: list[PoseResult]) -> bool:
    return all(
        np.array_equal(x.poses.xy_px, y.poses.xy_px, equal_nan=True)
        and np.array_equal(x.tracks.xyxy_px, y.tracks.xyxy_px)
        and np.array_equal(x.poses.score, y.poses.score)
        for x, y in zip(a, b, strict=True)
    )


def saturated() -> Imu:
    """Every third sample is at the end stop."""
    whole, out = sensor(), Imu()
    stamps, rates = whole.rates(*whole.span_ns)
    for n, (stamp, rate) in enumerate(zip(stamps.tolist(), rates, strict=True)):
        stop = np.array([0.0, 35.0, 0.0]) if n % 3 == 0 else rate
        out.push(stamp, stop, np.array([0.0, -9.81, 0.0]))
    return out


def leaping() -> Imu:
    """Stamps that leap ahead by an hour halfway through the stillness before the film."""
    whole, out = sensor(), Imu()
    stamps, rates = whole.rates(*whole.span_ns)
    for stamp, rate in zip(stamps.tolist(), rates, strict=True):
        leap = 0 if stamp < -700_000_000 else 3_600_000_000_000
        out.push(stamp + leap, rate, np.array([0.0, -9.81, 0.0]))
    return out


def still() -> Imu:
    """Feels no turn: the pictures move because the camera was carried aside."""
    out = Imu()
    for stamp in range(-1_500_000_000, 1_300_000_000, 5_000_000):
        out.push(stamp, np.zeros(3), np.array([0.0, -9.81, 0.0]))
    return out


@pytest.mark.parametrize(
    "imu, counted",
    [
        (Imu, "missing"), (saturated, "missing"), (leaping, "missing"),
        (still, "doubted"),
        (lambda: sensor(200_000_000), "doubted"),
        (lambda: sensor(axes=np.diag([1.0, -1.0, -1.0])), "doubted"),
    ],
    ids=["silent", "saturated", "leaping stamps", "carried aside", "late by 0.2 s", "upside down"],
)  # fmt: skip
def test_a_bad_sensor_changes_no_bit_and_is_counted(
    imu: object, counted: str, plain: tuple[DotNet, list[PoseResult]]
) -> None:
    ego = EgoMotion(imu(), 0.0, EgoCheck())  # type: ignore[operator]
    net, results = shown(ego, stream=True)
    assert same(results, plain[1]) and net.encoded == plain[0].encoded
    assert ego.counts["compensated"] == 0 and ego.counts[counted] == len(results) - 1


def test_a_sensor_is_believed_once_the_pictures_agreed() -> None:
    ego = EgoMotion(sensor(), 0.0, EgoCheck())
    net, results = shown(ego, stream=True)
    assert ego.trusted and ego.check is not None and ego.check.unexplained < 0.1
    assert ego.counts["doubted"] > 5 and ego.counts["compensated"] > 5
    assert max(net.spread_px[-10:]) < 0.5 and off_px(results) < 0.5
