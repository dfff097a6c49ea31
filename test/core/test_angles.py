from dataclasses import replace

import numpy as np
import pytest
from bodies import FACING_CAMERA, Posture, poses_of, random_people
from scipy.spatial.transform import Rotation
from transforms3d.euler import mat2euler

from pose_ros.core.angle_errors import ANY_RAD
from pose_ros.core.angles import FORGET_S, AngleTracker, get_convention, joint_angles
from pose_ros.core.body_axes import LIMBS, head_frame
from pose_ros.core.body_model import (
    JOINT_NAMES,
    LINKS,
    body_lengths,
    forward,
    limb_shift,
    limits_rad,
)
from pose_ros.core.rep155 import body_frame
from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.core.values import JointAngles, KeypointStatus, Poses3D, ScaleSource
from pose_ros.errors import ConfigError

DOWN, AHEAD, BACK = (0, 0, -1), (1, 0, 0), (-1, 0, 0)
FRAME_NS = 33_000_000
BOTH = pytest.mark.parametrize("convention", ["rep155", "isb"])


def column(name: str, convention: str = "rep155") -> int:
    return get_convention(convention).names.index(name)


def at(angles: JointAngles, name: str, person: int = 0) -> float:
    return float(angles.angle_rad[person, angles.names.index(name)])


def arm(near: tuple, far: tuple) -> np.ndarray:
    """One person whose left arm points so."""
    return Posture(arms=((near, far), (DOWN, DOWN))).joints()[None]


def differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)


def test_forward_kinematics_of_the_angles_is_the_body() -> None:
    """Every joint within 0.1 mm, every direction within 0.01 degrees, head included."""
    xyz = random_people(300, seed=1)
    angles = joint_angles(poses_of(xyz), COCO17).angle_rad.astype(np.float64)
    rotation, origin = body_frame(xyz, angles[:, 0])
    lengths = body_lengths(xyz)
    rigid = forward(angles, lengths, rotation, origin)
    links = forward(angles, lengths, rotation, origin, limb_shift(xyz, rigid))
    np.testing.assert_allclose(links.limbs_m(), xyz[:, LIMBS], atol=1e-4)
    # without the shift every limb is moved as a whole: its directions are exact all the same
    np.testing.assert_allclose(
        np.diff(rigid.limbs_m(), axis=2), np.diff(xyz[:, LIMBS], axis=2), atol=1e-4
    )
    np.testing.assert_allclose(links.rotation[:, LINKS.index("head")], head_frame(xyz), atol=2e-5)
    neck = (xyz[:, 5] + xyz[:, 6]) / 2
    np.testing.assert_allclose(links.xyz_m[:, LINKS.index("torso")], neck, atol=1e-5)


def test_angles_of_a_model_body_are_those_it_was_made_with() -> None:
    rng = np.random.default_rng(2)
    angle = rng.uniform(*limits_rad(), size=(300, 20))
    for elbow in ("l_elbow", "r_elbow"):
        angle[:, column(elbow)] = rng.uniform(0.1, 2.5, 300)
    for knee in ("l_knee", "r_knee"):
        angle[:, column(knee)] = rng.uniform(-2.5, -0.1, 300)
    shoulder = [column("l_p_shoulder"), column("r_p_shoulder")]
    angle[:, shoulder] = rng.uniform(0.5, 2.6, (300, 2))  # one branch only
    lengths = np.tile(body_lengths(Posture().joints()[None]), (300, 1))
    links = forward(angle, lengths, np.tile(np.eye(3), (300, 1, 1)), np.zeros((300, 3)))
    xyz = np.full((300, 17, 3), np.nan)
    xyz[:, LIMBS] = links.limbs_m()
    got = joint_angles(poses_of(xyz), COCO17).angle_rad
    np.testing.assert_allclose(got[:, 4:12], angle[:, 4:12], atol=2e-5)
    np.testing.assert_allclose(got[:, [15, 19]], angle[:, [15, 19]], atol=1e-5)
    # the waist is a third of what the thighs say, and the hips take up the rest
    legs = joint_angles(poses_of(xyz), COCO17, previous=None)
    rotation, origin = body_frame(xyz, legs.angle_rad[:, 0].astype(np.float64))
    again = forward(legs.angle_rad, lengths, rotation, origin)
    np.testing.assert_allclose(again.limbs_m()[:, 2:], xyz[:, LIMBS[2:]], atol=1e-5)


def test_transforms3d_finds_the_same_angles() -> None:
    """An independent road: frames joint by joint, chains by transforms3d's Euler angles."""
    xyz = random_people(60, seed=3)
    angles = joint_angles(poses_of(xyz), COCO17)
    for person in range(60):
        p = dict(zip(COCO17.joints, xyz[person], strict=True))
        shoulders, hips = (p[f"left_{n}"] - p[f"right_{n}"] for n in ("shoulder", "hip"))
        neck = (p["left_shoulder"] + p["right_shoulder"]) / 2
        z = neck - (p["left_hip"] + p["right_hip"]) / 2
        z /= np.linalg.norm(z)
        x = np.cross(np.linalg.norm(shoulders) * shoulders + np.linalg.norm(hips) * hips, z)
        x /= np.linalg.norm(x)
        trunk = np.column_stack([x, np.cross(z, x), z])
        pelvis = trunk @ Rotation.from_euler("y", -at(angles, "waist", person)).as_matrix()
        ears = (p["left_ear"] + p["right_ear"]) / 2
        eyes = (p["left_eye"] + p["right_eye"]) / 2
        side_y = p["left_ear"] - p["right_ear"]
        up = np.cross((eyes + p["nose"]) / 2 - ears, side_y)
        head = np.column_stack([np.cross(side_y, up), side_y, up])
        head /= np.linalg.norm(head, axis=0)
        # eyes and nose of the mean face: 10.25 cm ahead, 0.25 cm down
        head = head @ Rotation.from_euler("y", np.arctan2(-0.0025, 0.1025)).as_matrix()
        chains = [("r_head", trunk.T @ head, "rxzy", (1, 1, -1))]
        for side, letter, s in (("left", "l", 1), ("right", "r", -1)):
            for names, first, parent, bends, axes, signs in (
                ("shoulder elbow wrist", "y_shoulder", trunk, 1, "rzxz", (-s, s, s)),
                ("hip knee ankle", "y_hip", pelvis, -1, "rzxy", (-1, s, -1)),
            ):
                a, b, c = (p[f"{side}_{name}"] for name in names.split())
                hinge = bends * np.cross(c - b, b - a)
                y, back = hinge / np.linalg.norm(hinge), (a - b) / np.linalg.norm(a - b)
                limb = parent.T @ np.column_stack([np.cross(y, back), y, back])
                chains.append((f"{letter}_{first}", limb, axes, signs))
                bend = np.arccos(
                    np.dot(c - b, b - a) / np.linalg.norm(c - b) / np.linalg.norm(b - a)
                )
                hinged = at(angles, f"{letter}_{names.split()[1]}", person)
                assert hinged == pytest.approx(bends * bend, abs=2e-4)
        for name, rotation, axes, signs in chains:
            first = column(name)
            got = angles.angle_rad[person, first : first + 3]
            raw = np.array(mat2euler(rotation, axes=axes))
            middle = -raw[1] if axes == "rzxz" else np.pi - raw[1]
            other = np.array([raw[0] + np.pi, middle, raw[2] + np.pi])
            off = min(differ(got, way * signs).max() for way in (raw, other))
            assert off < 1e-4, name


def test_worked_postures() -> None:
    standing = joint_angles(poses_of(Posture().joints()[None]), COCO17)
    np.testing.assert_allclose(standing.angle_rad, 0, atol=1e-6)
    # upper arm to the left, forearm ahead
    got = joint_angles(poses_of(arm((0, 1, 0), AHEAD)), COCO17)
    assert at(got, "l_p_shoulder") == pytest.approx(np.pi / 2, abs=1e-5)
    assert at(got, "l_elbow") == pytest.approx(np.pi / 2, abs=1e-5)
    assert at(got, "l_y_shoulder") == pytest.approx(0, abs=1e-5)
    assert at(got, "l_r_shoulder") == pytest.approx(0, abs=1e-5)
    # sitting: thighs ahead, shanks down; 30 of the 90 degrees are the waist's
    sitting = Posture(legs=((AHEAD, DOWN), (AHEAD, DOWN))).joints()[None]
    got = joint_angles(poses_of(sitting), COCO17)
    assert at(got, "waist") == pytest.approx(np.pi / 6, abs=1e-5)
    assert at(got, "r_r_hip") == pytest.approx(np.pi / 3, abs=1e-5)
    assert at(got, "l_knee") == pytest.approx(-np.pi / 2, abs=1e-5)
    assert got.beyond_limit[0, column("l_r_hip")]  # 60 degrees > 0.7 rad, and not clamped
    assert not got.beyond_limit[0, column("l_knee")]
    nod = Posture(head=Rotation.from_euler("ZY", [0.5, 0.3])).joints()[None]
    got = joint_angles(poses_of(nod), COCO17)
    assert at(got, "y_head") == pytest.approx(0.5, abs=1e-5)
    assert at(got, "p_head") == pytest.approx(-0.3, abs=1e-5)  # looking down


def test_body_frame_of_somebody_who_faces_the_camera() -> None:
    xyz = Posture().joints() @ FACING_CAMERA.T + [0.5, 0, 3]
    rotation, origin = body_frame(xyz[None])
    np.testing.assert_allclose(rotation[0], FACING_CAMERA, atol=1e-12)
    np.testing.assert_allclose(origin[0], [0.5, 0, 3])
    for joint in ("left_hip", "right_shoulder"):
        lame = xyz[None].copy()
        lame[0, COCO17.index(joint)] = np.nan
        assert np.isnan(body_frame(lame)[0]).all()


@BOTH
def test_where_somebody_stands_and_how_tall_they_are_changes_nothing(convention: str) -> None:
    xyz = random_people(50, seed=4)
    turn = Rotation.random(random_state=5)
    moved = 1.3 * turn.apply(xyz.reshape(-1, 3)).reshape(xyz.shape) + [1, -2, 3]
    one, two = (joint_angles(poses_of(x), COCO17, convention) for x in (xyz, moved))
    assert differ(one.angle_rad, two.angle_rad).max() < 2e-4


def test_a_mirror_swaps_the_sides() -> None:
    xyz = random_people(50, seed=6)
    mirrored = (xyz * [-1, 1, 1])[:, COCO17.flip_order()]
    one, two = (joint_angles(poses_of(x), COCO17).angle_rad for x in (xyz, mirrored))
    left, right = np.r_[4:8, 13:16], np.r_[8:12, 17:20]
    assert differ(one[:, left], two[:, right]).max() < 2e-4
    assert differ(one[:, column("l_y_hip")], -two[:, column("r_y_hip")]).max() < 2e-4
    signs = np.array([1, -1, -1, 1])
    assert differ(one[:, :4] * signs, two[:, :4]).max() < 2e-4


@BOTH
def test_people_do_not_influence_each_other(convention: str) -> None:
    poses = poses_of(random_people(5, seed=7), 0.01, np.ones((5, 17, 3)))
    together = joint_angles(poses, COCO17, convention)
    for person in range(5):
        alone = joint_angles(
            Poses3D(**{k: v[person : person + 1] for k, v in vars(poses).items()}),
            COCO17, convention,
        )  # fmt: skip
        np.testing.assert_allclose(alone.angle_rad[0], together.angle_rad[person], atol=1e-6)
        np.testing.assert_allclose(alone.std_rad[0], together.std_rad[person], rtol=1e-4)
        np.testing.assert_allclose(
            alone.velocity_rad_s[0], together.velocity_rad_s[person], rtol=1e-3, atol=1e-4
        )


@BOTH
def test_deviation_is_what_noisy_joints_give(convention: str) -> None:
    """Monte Carlo with 1 mm of noise; the tolerance is three sigma of 2000 samples."""
    xyz = random_people(1, seed=8, bent=0.6)
    told = joint_angles(poses_of(xyz, 1e-3), COCO17, convention)
    noisy = xyz + np.random.default_rng(9).normal(0, 1e-3, (2000, 17, 3))
    found = joint_angles(poses_of(noisy), COCO17, convention).angle_rad
    spread = np.sqrt((differ(found, told.angle_rad) ** 2).mean(axis=0))
    np.testing.assert_allclose(told.std_rad[0], spread, rtol=3 / np.sqrt(2 * 2000) + 0.02)


@BOTH
def test_the_distance_of_somebody_before_one_camera_bends_no_limb(convention: str) -> None:
    """Monte Carlo: everybody 5 % too near or far together, and 2 cm per joint on top."""
    rng = np.random.default_rng(10)
    xyz = random_people(1, seed=8, bent=0.6)
    xyz += [0.5, 0.2, 4.0] - xyz.mean(axis=1, keepdims=True)
    measured = poses_of(xyz, 0.02)
    measured.covariance_m2[:] += 0.05**2 * xyz[..., :, None] * xyz[..., None, :]
    guessed = replace(measured, scale=np.array([ScaleSource.MONO], np.int8))
    noisy = xyz * (1 + 0.05 * rng.normal(size=(2000, 1, 1))) + rng.normal(0, 0.02, (2000, 17, 3))
    found = joint_angles(poses_of(noisy), COCO17, convention).angle_rad
    told = joint_angles(guessed, COCO17, convention)
    spread = np.sqrt((differ(found, told.angle_rad) ** 2).mean(axis=0))
    ratio = told.std_rad[0] / spread
    assert ratio.min() > 0.8 and np.median(ratio) < 2.5
    # joints that are measured one by one have no distance in common
    apart = joint_angles(measured, COCO17, convention)
    assert np.median(apart.std_rad[0] / spread) > 4
    np.testing.assert_array_equal(told.angle_rad, apart.angle_rad)


@BOTH
def test_velocity_is_the_difference_over_time(convention: str) -> None:
    xyz = random_people(20, seed=10, bent=0.4)
    velocity = np.random.default_rng(11).normal(0, 0.5, xyz.shape)
    now = joint_angles(poses_of(xyz, velocity_m_s=velocity), COCO17, convention)
    dt = 1e-3
    ends = [joint_angles(poses_of(xyz + s * dt * velocity), COCO17, convention) for s in (-1, 1)]
    change = ends[1].angle_rad.astype(np.float64) - ends[0].angle_rad
    change = (change + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(now.velocity_rad_s, change / (2 * dt), rtol=0.02, atol=0.02)


def test_a_straight_arm_keeps_its_twist_and_gets_less_sure() -> None:
    tracker = AngleTracker(COCO17)
    bent = arm((0, 1, 0), (1, 0, 1))  # forearm up and ahead: twisted by 45 degrees
    first = tracker.update(poses_of(bent, 0.01), 0)
    twist = column("l_r_shoulder")
    assert first.status[0, twist] == KeypointStatus.MEASURED
    assert first.std_rad[0, twist] < 0.1
    straight = arm((0, 1, 0), (0, 1, 0))
    told = [tracker.update(poses_of(straight, 0.01), i * FRAME_NS) for i in range(1, 40)]
    for angles in told:
        assert at(angles, "l_r_shoulder") == pytest.approx(at(first, "l_r_shoulder"), abs=1e-4)
        assert angles.status[0, twist] == KeypointStatus.INFERRED
        assert angles.status[0, column("l_p_shoulder")] == KeypointStatus.MEASURED
        assert angles.status[0, column("l_elbow")] == KeypointStatus.MEASURED
    spread = [float(angles.std_rad[0, twist]) for angles in told]
    assert spread == sorted(spread)
    # a random walk of 1 rad per square root of a second: 0.033 rad^2 a frame, on its first value
    assert spread[9] == pytest.approx(np.sqrt(spread[0] ** 2 + 9 * 0.033), rel=1e-3)
    assert spread[-1] <= ANY_RAD
    again = tracker.update(poses_of(bent, 0.01), 40 * FRAME_NS)
    assert again.status[0, twist] == KeypointStatus.MEASURED
    assert at(again, "l_r_shoulder") == pytest.approx(at(first, "l_r_shoulder"), abs=1e-5)


def test_a_held_twist_still_gives_every_position() -> None:
    xyz = random_people(40, seed=12, bent=0.3)
    tracker = AngleTracker(COCO17)
    tracker.update(poses_of(xyz, 0.01), 0)
    for near, middle, far in LIMBS:  # straighten all limbs, and swing them by 0.2 rad
        swing = Rotation.from_euler("x", 0.2)
        step = swing.apply(xyz[:, middle] - xyz[:, near])
        xyz[:, middle] = xyz[:, near] + step
        xyz[:, far] = xyz[:, middle] + 0.9 * step
    angles = tracker.update(poses_of(xyz, 0.01), FRAME_NS).angle_rad.astype(np.float64)
    rotation, origin = body_frame(xyz, angles[:, 0])
    rigid = forward(angles, body_lengths(xyz), rotation, origin)
    links = forward(angles, body_lengths(xyz), rotation, origin, limb_shift(xyz, rigid))
    np.testing.assert_allclose(links.limbs_m(), xyz[:, LIMBS], atol=1e-3)


def test_what_a_nearly_straight_arm_shows_counts_as_little_as_it_is_known() -> None:
    """Bent by 0.03 rad, with 1 cm of noise, the twist is known to 1.8 rad at best: it is noise."""
    tracker = AngleTracker(COCO17)
    bend = 0.03
    first = tracker.update(poses_of(arm((0, 1, 0), AHEAD), 0.005), 0)
    upwards = arm((0, 1, 0), (0, np.cos(bend), np.sin(bend)))
    got = tracker.update(poses_of(upwards, 0.005), FRAME_NS)
    moved = differ(np.array(at(got, "l_r_shoulder")), np.array(at(first, "l_r_shoulder")))
    assert 0 < moved < 0.2  # of the 1.57 that it shows
    exact = AngleTracker(COCO17)
    exact.update(poses_of(arm((0, 1, 0), AHEAD), 1e-5), 0)
    sure = exact.update(poses_of(upwards, 1e-5), FRAME_NS)
    assert abs(at(sure, "l_r_shoulder")) == pytest.approx(np.pi / 2, abs=1e-3)
    for i in range(150):  # a steady sight wins in the end
        got = tracker.update(poses_of(upwards, 0.005), (2 + i) * FRAME_NS)
    assert abs(at(got, "l_r_shoulder")) == pytest.approx(np.pi / 2, abs=0.05)


@BOTH
def test_a_straight_limb_never_seen_bent_is_a_guess_and_says_so(convention: str) -> None:
    angles = joint_angles(poses_of(arm(DOWN, DOWN), 0.01), COCO17, convention)
    names = {"rep155": ("l_r_shoulder", "l_y_hip"), "isb": ("left_shoulder_rotation",) * 2}
    for name in names[convention]:
        k = column(name, convention)
        assert angles.status[0, k] == KeypointStatus.INFERRED
        assert angles.std_rad[0, k] == pytest.approx(ANY_RAD, abs=1e-5)
        assert angles.angle_rad[0, k] == pytest.approx(0, abs=1e-5)


def test_a_swinging_arm_passes_the_singular_pose_without_a_jump() -> None:
    """Arm swings in the sagittal plane through hanging, where yaw and twist are parallel."""
    tracker, before = AngleTracker(COCO17), None
    for i, swing in enumerate(np.linspace(0.6, -0.38, 50)):
        near = (np.sin(swing), 0, -np.cos(swing))
        far = (np.sin(swing + 0.4), 0, -np.cos(swing + 0.4))
        now = tracker.update(poses_of(arm(near, far)), i * FRAME_NS).angle_rad[0, 4:8]
        assert before is None or differ(now, before).max() < 0.05
        before = now
    np.testing.assert_allclose(before, [np.pi / 2, -0.38, np.pi / 2, 0.4], atol=1e-5)


def test_the_waist_is_held_while_the_knees_are_hidden() -> None:
    sitting = Posture(legs=((AHEAD, DOWN), (AHEAD, DOWN))).joints()[None]
    desk = sitting.copy()
    desk[0, LIMBS[2:, 1:]] = np.nan
    tracker = AngleTracker(COCO17)
    tracker.update(poses_of(sitting, 0.01), 0)
    for i in range(1, 4):
        held = tracker.update(poses_of(desk, 0.01, np.zeros(desk.shape)), i * FRAME_NS)
        assert at(held, "waist") == pytest.approx(np.pi / 6, abs=1e-5)
        assert held.status[0, 0] == KeypointStatus.INFERRED
        assert np.isnan(held.velocity_rad_s[0, 0])
        assert np.isnan(held.angle_rad[0, 12:]).all()
    assert 0.25 < held.std_rad[0, 0] < 0.4
    fresh = joint_angles(poses_of(desk, 0.01), COCO17)
    assert at(fresh, "waist") == 0
    assert fresh.status[0, 0] == KeypointStatus.INFERRED
    np.testing.assert_allclose(fresh.angle_rad[0, 4:12], held.angle_rad[0, 4:12], atol=1e-6)


@pytest.mark.parametrize(
    ("joint", "lost", "held"),
    [
        ("left_wrist", {"l_elbow"}, {"l_r_shoulder"}),
        ("left_elbow", {"l_y_shoulder", "l_p_shoulder", "l_r_shoulder", "l_elbow"}, set()),
        ("right_ankle", {"r_knee"}, {"r_y_hip", "r_p_hip", "r_r_hip"}),
        ("right_knee", {"r_y_hip", "r_p_hip", "r_r_hip", "r_knee"},
         {"waist", "l_y_hip", "l_p_hip", "l_r_hip"}),
        ("left_hip", set(JOINT_NAMES) - {"l_elbow", "r_elbow", "r_knee"}, set()),
        ("nose", set(), set()),  # ears and eyes say enough
        ("left_ear", set(), set()),  # eyes and nose say enough
    ],
)  # fmt: skip
def test_what_a_missing_joint_takes_away(joint: str, lost: set[str], held: set[str]) -> None:
    xyz = random_people(1, seed=13)
    xyz[0, COCO17.index(joint)] = np.nan
    angles = joint_angles(poses_of(xyz, 0.01, np.ones(xyz.shape)), COCO17)
    unknown = np.isnan(angles.angle_rad[0])
    assert {n for n, gone in zip(JOINT_NAMES, unknown, strict=True) if gone} == lost
    status = dict(zip(JOINT_NAMES, angles.status[0].tolist(), strict=True))
    assert {n for n, s in status.items() if s == KeypointStatus.MISSING} == lost
    assert {n for n, s in status.items() if s == KeypointStatus.INFERRED} == held
    assert (np.isnan(angles.std_rad[0]) == unknown).all()
    assert not angles.beyond_limit[0, unknown].any()
    still = np.array(["waist" in held and name == "waist" for name in JOINT_NAMES])
    assert (np.isnan(angles.velocity_rad_s[0]) == (unknown | still)).all()


def test_a_head_needs_a_line_across_and_a_point_ahead() -> None:
    xyz = Posture(head=Rotation.from_euler("ZY", [0.4, 0.2])).joints()[None]
    for known in ("01234", "034", "1234", "012", "0124"):
        face = xyz.copy()
        face[0, [j for j in range(5) if str(j) not in known]] = np.nan
        angles = joint_angles(poses_of(face), COCO17)
        np.testing.assert_allclose(angles.angle_rad[0, 1:4], [0, 0.4, -0.2], atol=1e-5)
    for known in ("0", "34", "12", "13", "023"):
        face = xyz.copy()
        face[0, [j for j in range(5) if str(j) not in known]] = np.nan
        assert np.isnan(joint_angles(poses_of(face), COCO17).angle_rad[0, 1:4]).all()


def test_status_is_the_worst_of_the_joints_an_angle_rests_on() -> None:
    poses = poses_of(random_people(1, seed=14), 0.01)
    poses.status[0, COCO17.index("left_wrist")] = KeypointStatus.PREDICTED
    poses.status[0, COCO17.index("left_elbow")] = KeypointStatus.INFERRED
    status = dict(zip(JOINT_NAMES, joint_angles(poses, COCO17).status[0].tolist(), strict=True))
    assert status["l_elbow"] == status["l_r_shoulder"] == KeypointStatus.PREDICTED
    assert status["l_p_shoulder"] == KeypointStatus.INFERRED
    assert status["r_elbow"] == status["waist"] == status["l_knee"] == KeypointStatus.MEASURED


@pytest.mark.parametrize(
    ("gone", "filled", "worst"),
    [
        ((), "left_eye", KeypointStatus.INFERRED),
        (("right_eye",), "left_eye", KeypointStatus.MEASURED),  # an eye alone tells nothing
        (("nose",), "right_ear", KeypointStatus.INFERRED),
        (("left_ear",), "right_ear", KeypointStatus.MEASURED),
        (("left_ear",), "nose", KeypointStatus.INFERRED),
    ],
)
def test_a_head_rests_on_the_part_of_the_face_that_is_used(
    gone: tuple[str, ...], filled: str, worst: KeypointStatus
) -> None:
    xyz = random_people(1, seed=14)
    xyz[0, [COCO17.index(name) for name in gone]] = np.nan
    poses = poses_of(xyz, 0.001)
    poses.status[0, COCO17.index(filled)] = KeypointStatus.INFERRED
    told = joint_angles(poses, COCO17)
    assert told.status[0, 1:4].tolist() == [worst] * 3
    assert np.isfinite(told.angle_rad[0, 1:4]).all()


@BOTH
def test_unknown_covariance_or_velocity_leaves_nan_and_the_angles(convention: str) -> None:
    angles = joint_angles(poses_of(random_people(3, seed=15)), COCO17, convention)
    assert np.isfinite(angles.angle_rad).all()
    assert np.isnan(angles.std_rad).all()
    assert np.isnan(angles.velocity_rad_s).all()


def test_the_tracker_goes_by_ids_forgets_and_starts_anew() -> None:
    bent, straight = arm((0, 1, 0), (1, 0, 1)), arm((0, 1, 0), (0, 1, 0))
    other = arm((0, 1, 0), AHEAD)
    twist = column("l_r_shoulder")
    tracker = AngleTracker(COCO17)
    first = tracker.update(poses_of(np.concatenate([bent, other]), 0.01), 0)
    swapped = poses_of(np.concatenate([straight, straight]), 0.01)
    swapped = replace(swapped, ids=np.array([2, 1]))
    got = tracker.update(swapped, FRAME_NS)
    np.testing.assert_allclose(got.angle_rad[:, twist], first.angle_rad[::-1, twist], atol=1e-4)
    tracker.update(poses_of(np.zeros((0, 17, 3))), 2 * FRAME_NS)  # everybody away, then back
    got = tracker.update(swapped, 3 * FRAME_NS)
    np.testing.assert_allclose(got.angle_rad[:, twist], first.angle_rad[::-1, twist], atol=1e-4)
    later = tracker.update(swapped, 10**10)  # 10 s without a look: nothing is left of it
    fresh = joint_angles(swapped, COCO17)
    np.testing.assert_allclose(later.angle_rad[:, twist], fresh.angle_rad[:, twist], atol=1e-6)
    tracker.update(poses_of(np.concatenate([bent, other]), 0.01), 10**10 + FRAME_NS)
    earlier = tracker.update(swapped, 5)
    np.testing.assert_allclose(earlier.angle_rad[:, twist], fresh.angle_rad[:, twist], atol=1e-6)


def test_the_tracker_remembers_no_more_than_who_was_there_of_late() -> None:
    tracker, xyz = AngleTracker(COCO17), random_people(2, seed=15)
    for step in range(300):  # ten seconds, every frame somebody new beside somebody who stays
        poses = replace(poses_of(xyz), ids=np.array([1, 100 + step]))
        tracker.update(poses, step * FRAME_NS)
    recent = FORGET_S / (FRAME_NS * 1e-9)
    assert 0.9 * recent < len(tracker._ids) < 1.1 * recent
    assert len(set(tracker._ids.tolist())) == len(tracker._ids)


def test_previous_angles_do_what_the_tracker_does() -> None:
    bent, straight = arm((0, 1, 0), (1, 0, 1)), arm((0, 1, 0), (0, 1, 0))
    tracker = AngleTracker(COCO17)
    first = tracker.update(poses_of(bent, 0.01), 0)
    by_tracker = tracker.update(poses_of(straight, 0.01), FRAME_NS)
    by_hand = joint_angles(
        poses_of(straight, 0.01), COCO17, previous=first, elapsed_s=FRAME_NS * 1e-9
    )
    np.testing.assert_allclose(by_hand.angle_rad, by_tracker.angle_rad, atol=1e-6)
    np.testing.assert_allclose(by_hand.std_rad, by_tracker.std_rad, atol=1e-6)


@BOTH
def test_nobody_and_everything_missing(convention: str) -> None:
    empty = joint_angles(poses_of(np.zeros((0, 17, 3))), COCO17, convention)
    assert empty.angle_rad.shape == (0, len(empty.names))
    tracker = AngleTracker(COCO17, convention)
    for stamp in range(3):
        lost = tracker.update(Poses3D.unknown(np.array([7, 9]), 17), stamp)
        assert np.isnan(lost.angle_rad).all()
        assert np.isnan(lost.std_rad).all()
        assert (lost.status == KeypointStatus.MISSING).all()
        assert not lost.beyond_limit.any()


def test_other_skeletons_are_read_by_name() -> None:
    order = list(range(16, -1, -1))
    names = tuple(COCO17.joints[j] for j in order)
    backwards = Skeleton("backwards", names, (), (), (0.1,) * 17)
    xyz = random_people(3, seed=16)
    one = joint_angles(poses_of(xyz), COCO17)
    two = joint_angles(poses_of(xyz[:, order]), backwards)
    np.testing.assert_array_equal(one.angle_rad, two.angle_rad)
    faceless = Skeleton("faceless", COCO17.joints[5:], (), (), (0.1,) * 12)
    three = joint_angles(poses_of(xyz[:, 5:]), faceless)
    np.testing.assert_array_equal(one.angle_rad[:, 4:], three.angle_rad[:, 4:])
    assert np.isnan(three.angle_rad[:, 1:4]).all()
    with pytest.raises(ConfigError, match="armless has no joint 'left_elbow'"):
        joint_angles(
            poses_of(xyz[:, :7]), Skeleton("armless", COCO17.joints[:7], (), (), (0.1,) * 7)
        )


def test_unknown_conventions_are_refused() -> None:
    poses = poses_of(random_people(1))
    with pytest.raises(ConfigError, match="'euler' is not known; known: rep155, isb"):
        joint_angles(poses, COCO17, "euler")
    with pytest.raises(ConfigError, match="not known"):
        AngleTracker(COCO17, "euler")
    with pytest.raises(ConfigError, match="in 'isb', not in 'rep155'"):
        joint_angles(poses, COCO17, previous=joint_angles(poses, COCO17, "isb"))
