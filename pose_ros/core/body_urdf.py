"""A URDF per person: the tree of ``body_model`` with measured lengths, as sticks and balls.

Source: link and joint names, axes, limits from ros4hri/human_description,
urdf/human-tpl.xacro@a0fcf79. That template scales with the height alone; here every length is
the person's own, and the sides may differ.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np

from pose_ros.core.body_model import LENGTHS, LINKS, TREE, complete_lengths
from pose_ros.core.chains import Array
from pose_ros.errors import ConfigError, ShapeError

LIMB_RADIUS_M = 0.03
#: What URDF demands of a revolute joint beside its range; nothing here uses them.
EFFORT_NM = 1000.0
VELOCITY_RAD_S = 30.0
#: Colours by material, red green blue alpha.
MATERIALS = {"limb": "0.35 0.55 0.85 1", "joint": "0.2 0.3 0.5 1", "eye": "0.1 0.1 0.1 1"}

#: Links drawn as a stick from their origin downwards, and the length it has.
_STICKS = {
    f"{side}_{link}": f"{side}_{length}"
    for side in "lr"
    for link, length in (
        ("shoulder", "upper_arm"), ("elbow", "forearm"), ("hip", "thigh"), ("knee", "shank"),
    )
}  # fmt: skip


def urdf(body_id: str, lengths_m: Array) -> str:
    """URDF text of one person, every link and joint name with the suffix ``_<body_id>``.

    ``lengths_m`` (13,) in the order of ``LENGTHS``; unknown ones (NaN) are filled by
    ``complete_lengths``. Links have visuals and no inertia: this is something to look at and to
    compute frames with, not to simulate.

    Raises:
        ConfigError: if ``body_id`` is no identifier (REP-155: a letter first).
        ShapeError: if there are not 13 lengths, or one is not positive.

    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", body_id):
        raise ConfigError(
            f"body id '{body_id}': expected a letter, then letters, digits and underscores"
        )
    if np.shape(lengths_m) != (len(LENGTHS),):
        raise ShapeError(f"lengths_m: expected ({len(LENGTHS)},), got {np.shape(lengths_m)}")
    size = dict(zip(LENGTHS, complete_lengths(lengths_m).tolist(), strict=True))
    if min(size.values()) <= 0:
        raise ShapeError(f"lengths_m: expected positive metres, got {size}")
    robot = ET.Element("robot", name="human")
    for name, rgba in MATERIALS.items():
        ET.SubElement(ET.SubElement(robot, "material", name=name), "color", rgba=rgba)
    for link in LINKS:
        element = ET.SubElement(robot, "link", name=f"{link}_{body_id}")
        _draw(element, link, size)
    for joint in TREE:
        kind = "fixed" if joint.axis is None else "revolute"
        element = ET.SubElement(robot, "joint", name=f"{joint.name}_{body_id}", type=kind)
        offset = [part * size[joint.length] for part in joint.offset]
        ET.SubElement(element, "parent", link=f"{joint.parent}_{body_id}")
        ET.SubElement(element, "child", link=f"{joint.child}_{body_id}")
        ET.SubElement(element, "origin", xyz=_text(*offset), rpy="0 0 0")
        if joint.axis is not None:
            ET.SubElement(element, "axis", xyz=_text(*joint.axis))
            ET.SubElement(
                element, "limit", lower=_text(joint.lower_rad), upper=_text(joint.upper_rad),
                effort=_text(EFFORT_NM), velocity=_text(VELOCITY_RAD_S),
            )  # fmt: skip
    ET.indent(robot)
    return '<?xml version="1.0"?>\n' + ET.tostring(robot, encoding="unicode") + "\n"


def _draw(element: ET.Element, link: str, size: dict[str, float]) -> None:
    """Give a link its shapes; links between the hinges of one ball joint have none."""
    if link in _STICKS:
        length = size[_STICKS[link]]
        _stick(element, length, (0.0, 0.0, -length / 2))
        _ball(element, LIMB_RADIUS_M, (0.0, 0.0, -length), "joint")
    elif link.endswith(("y_shoulder", "y_hip")):
        _ball(element, LIMB_RADIUS_M, (0.0, 0.0, 0.0), "joint")
    elif link == "body":
        _stick(element, 2 * size["hip_half"], (0.0, 0.0, 0.0), across=True)
    elif link == "torso":
        _stick(element, size["torso"], (0.0, 0.0, -size["torso"] / 2))
        _stick(element, 2 * size["shoulder_half"], (0.0, 0.0, 0.0), across=True)
    elif link == "head":
        radius = size["head_radius"]
        _ball(element, radius, (-radius / 2, 0.0, 0.0), "limb")
        for side in (1, -1):
            _ball(element, radius / 5, (0.4 * radius, side * 0.4 * radius, 0.0), "eye")


def _stick(
    element: ET.Element, length: float, centre: tuple[float, float, float], across: bool = False
) -> None:
    visual = ET.SubElement(element, "visual")
    turned = _text(np.pi / 2, 0, 0) if across else "0 0 0"
    ET.SubElement(visual, "origin", xyz=_text(*centre), rpy=turned)
    shape = ET.SubElement(visual, "geometry")
    ET.SubElement(shape, "cylinder", length=_text(length), radius=_text(LIMB_RADIUS_M))
    ET.SubElement(visual, "material", name="limb")


def _ball(
    element: ET.Element, radius: float, centre: tuple[float, float, float], material: str
) -> None:
    visual = ET.SubElement(element, "visual")
    ET.SubElement(visual, "origin", xyz=_text(*centre), rpy="0 0 0")
    ET.SubElement(ET.SubElement(visual, "geometry"), "sphere", radius=_text(radius))
    ET.SubElement(visual, "material", name=material)


def _text(*numbers: float) -> str:
    return " ".join(f"{number + 0.0:.6g}" for number in numbers)
