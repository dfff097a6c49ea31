import numpy as np
import pytest
from bodies import Posture, poses_of, random_people
from scipy.spatial.transform import Rotation

from pose_ros.core.angles import joint_angles
from pose_ros.core.body_axes import LIMBS, head_frame, thorax_frame
from pose_ros.core.clinical import ISB, from_clinical, pelvis_frame
from pose_ros.core.skeletons import COCO17

DOWN, AHEAD, UP, LEFT, RIGHT = (0, 0, -1), (1, 0, 0), (0, 0, 1), (0, 1, 0), (0, -1, 0)


def degrees(posture: Posture) -> dict[str, float]:
    angles = joint_angles(poses_of(posture.joints()[None]), COCO17, "isb")
    return dict(zip(angles.names, np.degrees(angles.angle_rad[0]).tolist(), strict=True))


def test_the_names_are_what_a_clinician_asks_for() -> None:
    balls = [f"{s}_{b}_{t}" for b, s in (("shoulder", "left"), ("hip", "right"))
             for t in ("flexion", "abduction", "rotation")]  # fmt: skip
    assert set(balls) < set(ISB.names)
    assert {"trunk_flexion", "trunk_lateral", "trunk_rotation", "neck_flexion"} < set(ISB.names)
    assert {"left_elbow_flexion", "right_knee_flexion"} < set(ISB.names)
    assert len(set(ISB.names)) == 22


def test_standing_is_zero() -> None:
    assert max(abs(angle) for angle in degrees(Posture()).values()) < 1e-3


@pytest.mark.parametrize(
    ("posture", "expected"),
    [
        # arm and then forearm, left first; shanks follow thighs where nothing else is said
        (Posture(arms=((AHEAD, UP), (DOWN, AHEAD))), {
            "left_shoulder_flexion": 90, "left_elbow_flexion": 90, "left_shoulder_rotation": 0,
            "right_shoulder_flexion": 0, "right_elbow_flexion": 90,
        }),
        # both arms down, forearms to the right: internal for the left arm, external for the right
        (Posture(arms=((DOWN, RIGHT), (DOWN, RIGHT))), {
            "left_shoulder_rotation": 90, "right_shoulder_rotation": -90,
        }),
        (Posture(arms=(((0, 1, -1), (1, 0, 0)), ((0, -1, -1), (1, 0, 0)))), {
            "left_shoulder_abduction": 45, "right_shoulder_abduction": 45,
            "left_shoulder_flexion": 0, "right_shoulder_rotation": 0,
        }),
        # sitting: thighs ahead; a third of the 90 degrees is the spine's
        (Posture(legs=((AHEAD, DOWN), (AHEAD, DOWN))), {
            "trunk_flexion": 30, "left_hip_flexion": 60, "right_knee_flexion": 90,
            "left_hip_abduction": 0, "right_hip_rotation": 0,
        }),
        # the left shank swung out with the knee bent turns the thigh inwards
        (Posture(legs=((DOWN, LEFT), (DOWN, DOWN))), {
            "left_hip_rotation": 90, "left_knee_flexion": 90,
        }),
        (Posture(shoulders=Rotation.from_euler("z", 0.3)), {"trunk_rotation": np.degrees(0.3)}),
        (Posture(trunk=(0, -0.5 * np.sin(0.2), 0.5 * np.cos(0.2)),
                 shoulders=Rotation.from_euler("x", 0.2)), {"trunk_lateral": np.degrees(0.2)}),
        (Posture(head=Rotation.from_euler("z", 0.5)), {"neck_rotation": np.degrees(0.5)}),
        (Posture(head=Rotation.from_euler("y", 0.4)), {"neck_flexion": np.degrees(0.4)}),
        (Posture(head=Rotation.from_euler("x", 0.2)), {"neck_lateral": np.degrees(0.2)}),
    ],
)  # fmt: skip
def test_worked_postures(posture: Posture, expected: dict[str, float]) -> None:
    got = degrees(posture)
    for name, angle in expected.items():
        assert got[name] == pytest.approx(angle, abs=2e-3), name


def test_an_arm_lifted_sideways_above_the_head_is_abducted_not_flexed() -> None:
    lifted = (0, 0.3, 1)
    got = degrees(Posture(arms=((lifted, lifted), (DOWN, DOWN))))
    outwards = 180 - np.degrees(np.arctan(0.3))
    assert got["left_shoulder_abduction"] == pytest.approx(outwards, abs=0.1)
    assert got["left_shoulder_flexion"] == pytest.approx(0, abs=0.1)


def test_from_clinical_puts_every_joint_back() -> None:
    xyz = random_people(200, seed=5)
    angles = joint_angles(poses_of(xyz), COCO17, "isb")
    pelvis, origin = pelvis_frame(xyz)
    thorax = thorax_frame(xyz)
    parents = np.stack([thorax, thorax, pelvis, pelvis], axis=1)
    roots = np.einsum("plxi,plx->pli", parents, xyz[:, LIMBS[:, 0]] - origin[:, None])
    bones = np.linalg.norm(np.diff(xyz[:, LIMBS], axis=2), axis=-1)
    got = from_clinical(angles.angle_rad, bones, roots, pelvis, origin)
    np.testing.assert_allclose(got.limbs_m, xyz[:, LIMBS], atol=1e-4)
    np.testing.assert_allclose(got.thorax, thorax, atol=1e-5)
    np.testing.assert_allclose(got.head, head_frame(xyz), atol=2e-5)


def test_scipy_finds_the_same_angles() -> None:
    """An independent road: frames built joint by joint, angles from scipy's Euler angles."""
    xyz = random_people(60, seed=6)
    angles = joint_angles(poses_of(xyz), COCO17, "isb")
    pelvis, _ = pelvis_frame(xyz)
    for person in range(60):
        at = dict(zip(COCO17.joints, xyz[person], strict=True))
        up = at["left_shoulder"] + at["right_shoulder"] - at["left_hip"] - at["right_hip"]
        z = up / np.linalg.norm(up)
        x = np.cross(at["left_shoulder"] - at["right_shoulder"], z)
        x /= np.linalg.norm(x)
        thorax = np.column_stack([x, np.cross(z, x), z])
        for side, s in (("left", 1), ("right", -1)):
            for joints, parent, bends, signs in (
                (("shoulder", "elbow", "wrist"), thorax, 1, (-1, s, -s)),
                (("hip", "knee", "ankle"), pelvis[person], -1, (-1, s, -s)),
            ):
                a, b, c = (at[f"{side}_{joint}"] for joint in joints)
                hinge = bends * np.cross(c - b, b - a)
                back, y = (a - b) / np.linalg.norm(a - b), hinge / np.linalg.norm(hinge)
                segment = np.column_stack([np.cross(y, back), y, back])
                euler = Rotation.from_matrix(parent.T @ segment).as_euler("YXZ") * signs
                first = ISB.names.index(f"{side}_{joints[0]}_flexion")
                got = angles.angle_rad[person, first : first + 3]
                other = np.array([euler[0] + np.pi, np.pi - euler[1], euler[2] + np.pi])
                off = min(np.abs(np.sin((got - way) / 2)).max() for way in (euler, other))
                assert off < 1e-4
