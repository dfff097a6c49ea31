"""What inertial sensors on the camera and on the people of a scene would say.

World z up. A sensor's orientation is ``world_from_sensor``; its specific force is what it feels,
+9.81 m/s^2 upwards at rest. Without noise the values are exact for the given motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from pose_ros.core.skeletons import COCO17
from pose_ros.training.scene import CameraPath, Person

Array = npt.NDArray[np.float64]

GRAVITY_M_S2 = 9.81
#: Where people wear sensors: name -> (joints that are averaged at its start, at its end).
BONES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trunk": (("left_hip", "right_hip"), ("left_shoulder", "right_shoulder")),
    **{
        f"{side}_{name}": ((f"{side}_{a}",), (f"{side}_{b}",))
        for side in ("left", "right")
        for name, a, b in (
            ("upper_arm", "shoulder", "elbow"), ("forearm", "elbow", "wrist"),
            ("thigh", "hip", "knee"), ("shank", "knee", "ankle"),
        )
    },
}  # fmt: skip


@dataclass(frozen=True)
class ImuNoise:
    """Errors of a cheap sensor; standard deviations per axis and sample, constant biases."""

    gyro_rad_s: float = 0.003
    force_m_s2: float = 0.03
    gyro_bias_rad_s: float = 0.005
    force_bias_m_s2: float = 0.05
    orientation_rad: float = math.radians(3.0)
    yaw_drift_rad_s: float = math.radians(1.0) / 60.0


@dataclass(frozen=True)
class ImuTrack:
    """Samples of one sensor."""

    name: str
    stamps_ns: npt.NDArray[np.int64]  # (N,)
    gyro_rad_s: Array  # (N, 3) sensor axes
    force_m_s2: Array  # (N, 3) specific force, sensor axes
    world_from_sensor: Array  # (N, 3, 3) as the sensor reports it
    sensor_from_bone: Array  # (3, 3) mounting; the bone runs along its own +y (camera: identity)
    rho: float = 0.0  # where on the bone, as a share from its start


def imu_stamps_ns(seconds: float, rate_hz: float = 200.0) -> npt.NDArray[np.int64]:
    """(N,) stamps from 0 to ``seconds``."""
    return np.round(np.arange(math.floor(seconds * rate_hz) + 1) * (1e9 / rate_hz)).astype(
        np.int64
    )


def camera_imu(
    path: CameraPath,
    stamps_ns: npt.NDArray[np.int64],
    noise: ImuNoise | None = None,
    seed: int = 0,
) -> ImuTrack:
    """The sensor of a camera; its axes are the optical frame's. ``noise`` None: exact."""
    t, step = stamps_ns * 1e-9, 1e-4
    turn, position = path.pose(t)
    before, position_before = path.pose(t - step)
    after, position_after = path.pose(t + step)
    gyro = Rotation.from_matrix(np.swapaxes(before, 1, 2) @ after).as_rotvec() / (2 * step)
    felt = (position_after - 2 * position + position_before) / step**2
    felt = felt + np.array([0.0, 0.0, GRAVITY_M_S2])
    force = np.einsum("nji,nj->ni", turn, felt)
    exact = ImuTrack("camera", stamps_ns, gyro, force, turn, np.eye(3))
    return exact if noise is None else with_noise(exact, noise, seed)


def body_imu(
    person: Person,
    bone: str,
    stamps_ns: npt.NDArray[np.int64],
    noise: ImuNoise | None = None,
    seed: int = 0,
) -> ImuTrack:
    """A sensor strapped to the middle of a bone of `BONES`, at an odd angle drawn from ``seed``.

    Seventeen joints do not tell how a bone turns about itself: it does not. Accelerations are
    the second derivative of the motion's spline, so motion recorded with jitter gives jittery
    forces; outside the person's stamps it stands still, as in `Person.at`. ``noise`` None: exact.
    """
    t = stamps_ns * 1e-9
    start, end = (_mean_joint(person, names, t) for names in BONES[bone])
    frames = _without_twist(end[0] - start[0])
    mount = Rotation.from_quat(np.random.default_rng([seed, 19]).standard_normal(4)).as_matrix()
    turn = frames @ mount
    felt = (start[1] + end[1]) / 2 + np.array([0.0, 0.0, GRAVITY_M_S2])
    force = np.einsum("nji,nj->ni", turn, felt)
    exact = ImuTrack(bone, stamps_ns, _turn_rate(turn, t), force, turn, mount.T, 0.5)
    return exact if noise is None else with_noise(exact, noise, seed)


def with_noise(track: ImuTrack, noise: ImuNoise, seed: int) -> ImuTrack:
    """The same sensor with errors: white noise, constant biases, an orientation that drifts."""
    rng = np.random.default_rng([seed, 23])
    count = (len(track.stamps_ns), 3)
    t = (track.stamps_ns - track.stamps_ns[0]) * 1e-9

    def off(bias: float, white: float) -> Array:
        return np.asarray(bias * rng.standard_normal(3) + white * rng.standard_normal(count))

    drift = np.outer(rng.choice([-1.0, 1.0]) * noise.yaw_drift_rad_s * t, [0.0, 0.0, 1.0])
    jitter = Rotation.from_rotvec(noise.orientation_rad * rng.standard_normal(count))
    said = Rotation.from_rotvec(drift) * Rotation.from_matrix(track.world_from_sensor) * jitter
    return ImuTrack(
        track.name, track.stamps_ns,
        track.gyro_rad_s + off(noise.gyro_bias_rad_s, noise.gyro_rad_s),
        track.force_m_s2 + off(noise.force_bias_m_s2, noise.force_m_s2),
        said.as_matrix(), track.sensor_from_bone, track.rho,
    )  # fmt: skip


def _mean_joint(person: Person, names: tuple[str, ...], t: Array) -> tuple[Array, Array]:
    """Position and acceleration (N, 3) of the mean of joints."""
    which = [COCO17.index(name) for name in names]
    if person.motion is None:
        still = np.broadcast_to(person.xyz_m[0, which].mean(axis=0), (len(t), 3))
        return np.float64(still), np.zeros((len(t), 3))
    inside = np.clip(t, person.stamps_ns[0] * 1e-9, person.stamps_ns[-1] * 1e-9)
    moves = (inside == t)[:, None]
    position = person.motion(inside)[:, which].mean(axis=1)
    return position, moves * person.motion(inside, 2)[:, which].mean(axis=1)


def _without_twist(along: Array) -> Array:
    """(N, 3, 3) frames whose y follows directions (N, 3), by the least rotation at each step."""
    y = along / np.linalg.norm(along, axis=1, keepdims=True)
    aside = np.eye(3)[np.abs(y[0]).argmin()]
    x = np.cross(y[0], aside)
    x /= np.linalg.norm(x)
    frames = np.empty((len(y), 3, 3))
    frames[0] = np.stack([x, y[0], np.cross(x, y[0])], axis=-1)
    axis = np.cross(y[:-1], y[1:])
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arctan2(sine, (y[:-1] * y[1:]).sum(axis=1, keepdims=True))
    steps = Rotation.from_rotvec(axis / np.maximum(sine, 1e-12) * angle).as_matrix()
    for n, step in enumerate(steps):
        frames[n + 1] = step @ frames[n]
    return frames


def _turn_rate(turn: Array, t: Array) -> Array:
    """(N, 3) angular velocity in the body's own axes, by central differences."""
    if len(turn) < 2:
        return np.zeros((len(turn), 3))
    first = np.maximum(np.arange(len(turn)) - 1, 0)
    last = np.minimum(np.arange(len(turn)) + 1, len(turn) - 1)
    step = Rotation.from_matrix(np.swapaxes(turn[first], 1, 2) @ turn[last]).as_rotvec()
    return np.asarray(step / (t[last] - t[first])[:, None])
