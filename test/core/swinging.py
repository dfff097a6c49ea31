"""An analytic walker for tests: rigid trunk and face, limbs of two rigid bones that swing."""

import numpy as np

from pose_ros.core.skeletons import COCO17

THIGH, SHANK, UPPER, FOREARM, TRUNK = 0.42, 0.42, 0.31, 0.25, 0.49
HALF_HIPS, HALF_SHOULDERS = 0.09, 0.18


def walker(frames, rate_hz=30.0, speed=1.2, step_hz=0.9, phase=0.0):
    """Joints (T, 17, 3) in a camera's axes (x right, y down, z ahead), walking to the right.

    The person's left is +z. Knees fold backwards, elbows forwards. Returns them and seconds (T,).
    """
    t = np.arange(frames) / rate_hz
    swing = 2 * np.pi * step_hz * t + phase
    out = np.zeros((frames, 17, 3))
    at = COCO17.index
    pelvis = np.stack([speed * t, 0.02 * np.sin(2 * swing), 4.0 + 0 * t], axis=-1)
    chest = pelvis + np.array([0.0, -TRUNK, 0.0])
    for side, sign in (("left", 1.0), ("right", -1.0)):
        leg, arm = sign * 0.45 * np.sin(swing), -sign * 0.5 * np.sin(swing)
        knee = 0.35 + 0.3 * np.sin(swing + sign * 1.2)
        elbow = 0.5 + 0.25 * np.sin(swing - sign * 0.8)
        hip = pelvis + np.array([0.0, 0.0, sign * HALF_HIPS])
        shoulder = chest + np.array([0.0, 0.0, sign * HALF_SHOULDERS])
        out[:, at(f"{side}_hip")], out[:, at(f"{side}_shoulder")] = hip, shoulder
        out[:, at(f"{side}_knee")] = hip + THIGH * _down(leg)
        out[:, at(f"{side}_ankle")] = out[:, at(f"{side}_knee")] + SHANK * _down(leg - knee)
        out[:, at(f"{side}_elbow")] = shoulder + UPPER * _down(arm)
        out[:, at(f"{side}_wrist")] = out[:, at(f"{side}_elbow")] + FOREARM * _down(arm + elbow)
        out[:, at(f"{side}_eye")] = chest + np.array([0.10, -0.21, sign * 0.03])
        out[:, at(f"{side}_ear")] = chest + np.array([0.01, -0.20, sign * 0.075])
    out[:, at("nose")] = chest + np.array([0.12, -0.18, 0.0])
    return out, t


def _down(angle):
    return np.stack([np.sin(angle), np.cos(angle), 0 * angle], axis=-1)


def lengths_of(points, skeleton=COCO17):
    """(E,) median lengths of the bones of joints (T, K, d)."""
    a, b = skeleton.edge_indices().T
    return np.median(np.linalg.norm(points[:, a] - points[:, b], axis=-1), axis=0)
