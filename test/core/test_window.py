"""The frame window: start, gaps, held boxes, bounded memory."""

import numpy as np
import pytest

from pose_ros.core.config import WindowConfig
from pose_ros.core.values import Frame, People
from pose_ros.core.window import WindowBuffer

SECOND = 10**9


def frame(stamp_s: float, size: tuple[int, int] = (4, 4)) -> Frame:
    return Frame(np.zeros((*size, 3), np.uint8), round(stamp_s * SECOND))


def person(*boxes: tuple[float, float, float, float], first: int = 1) -> People:
    count = len(boxes)
    return People(np.arange(first, first + count), np.array(boxes, np.float32).reshape(-1, 4),
                  np.ones(count, np.float32))  # fmt: skip


def stamps(windows) -> list[float]:
    return [f.stamp_ns / SECOND for f in windows.frames]


def test_starts_with_repeated_frames_marked_invalid() -> None:
    buffer = WindowBuffer(3, WindowConfig())
    first = buffer.push(frame(0.0), person((0, 0, 2, 2)))
    assert stamps(first) == [0, 0, 0] and first.valid.tolist() == [[False, False, True]]
    buffer.push(frame(0.1), person((0, 0, 2, 2)))
    third = buffer.push(frame(0.25), person((0, 0, 2, 2)))
    assert stamps(third) == [0, 0.1, 0.25] and third.valid.all()
    np.testing.assert_allclose(third.offset_s, [-0.25, -0.15, 0], atol=1e-6)
    assert stamps(buffer.push(frame(0.3), person())) == [0.1, 0.25, 0.3]


@pytest.mark.parametrize("next_frame", [frame(0.61), frame(0.05), frame(0.2, (8, 8))])
def test_a_gap_a_step_back_or_another_size_starts_anew(next_frame: Frame) -> None:
    buffer = WindowBuffer(2, WindowConfig(max_gap_s=0.5))
    buffer.push(frame(0.1), person())
    window = buffer.push(next_frame, person((0, 0, 2, 2)))
    assert window.valid.tolist() == [[False, True]]
    assert {f.stamp_ns for f in window.frames} == {next_frame.stamp_ns}


def test_a_single_frame_network_follows_the_box() -> None:
    buffer = WindowBuffer(1, WindowConfig())
    buffer.push(frame(0), person((0, 0, 10, 10)))
    window = buffer.push(frame(0.1), person((0.1, 0, 10.1, 10)))
    np.testing.assert_allclose(window.people.xyxy_px, [[0.1, 0, 10.1, 10]])


def test_a_box_is_held_while_it_fits_but_not_for_ever() -> None:
    buffer = WindowBuffer(2, WindowConfig(box_hold=3))
    lefts = []
    for step in range(6):
        x = 0.1 * step
        box = buffer.push(frame(0.03 * step), person((x, 0, x + 10, 10))).people.xyxy_px
        lefts.append(round(float(box[0, 0]), 3))
    assert lefts == [0, 0, 0, 0, 0.4, 0.4]  # held for three frames after its own, then anew
    jumped = buffer.push(frame(0.2), person((5, 0, 15, 10))).people.xyxy_px
    assert jumped[0, 0] == 5


def test_held_boxes_belong_to_ids() -> None:
    buffer = WindowBuffer(2, WindowConfig(box_hold=9))
    buffer.push(frame(0), person((0, 0, 10, 10)))
    window = buffer.push(frame(0.1), person((0.2, 0, 10.2, 10), first=2))
    assert window.people.xyxy_px[0, 0] == np.float32(0.2)
    assert list(buffer._held) == [2]
