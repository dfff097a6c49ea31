"""The frame window: start, look-ahead, gaps, held boxes, bounded memory."""

import numpy as np
import pytest

from pose_ros.core.config import WindowConfig
from pose_ros.core.values import Frame, People
from pose_ros.core.window import Moment, WindowBuffer

SECOND = 10**9


def frame(stamp_s: float, size: tuple[int, int] = (4, 4)) -> Frame:
    return Frame(np.zeros((*size, 3), np.uint8), round(stamp_s * SECOND))


def person(*boxes: tuple[float, float, float, float], first: int = 1) -> People:
    count = len(boxes)
    return People(np.arange(first, first + count), np.array(boxes, np.float32).reshape(-1, 4),
                  np.ones(count, np.float32))  # fmt: skip


def stamps(moment: Moment | None) -> list[float]:
    assert moment is not None
    return [f.stamp_ns / SECOND for f in moment.frames]


def test_starts_with_repeated_frames_marked_invalid() -> None:
    buffer = WindowBuffer(3, WindowConfig())
    first = buffer.push(frame(0.0))
    assert stamps(first) == [0, 0, 0] and first.exists.tolist() == [False, False, True]
    assert first.numbers.tolist() == [0, 0, 0]
    buffer.push(frame(0.1))
    third = buffer.push(frame(0.25))
    assert stamps(third) == [0, 0.1, 0.25] and third.exists.all()
    windows = third.of(person((0, 0, 2, 2), (1, 1, 3, 3)))
    assert windows.valid.shape == (2, 3) and windows.valid.all()
    np.testing.assert_allclose(windows.offset_s, [-0.25, -0.15, 0], atol=1e-6)
    fourth = buffer.push(frame(0.3))
    assert stamps(fourth) == [0.1, 0.25, 0.3] and fourth.numbers.tolist() == [1, 2, 3]


def test_a_look_ahead_answers_an_older_frame() -> None:
    buffer = WindowBuffer(4, WindowConfig(), lookahead=2)
    assert buffer.push(frame(0.0)) is None and buffer.push(frame(0.1)) is None
    first = buffer.push(frame(0.2))
    assert stamps(first) == [0.0, 0.0, 0.1, 0.2] and first.key_frame.stamp_ns == 0
    assert first.exists.tolist() == [False, True, True, True]
    np.testing.assert_allclose(first.of(person()).offset_s, [0, 0, 0.1, 0.2], atol=1e-6)
    assert stamps(buffer.push(frame(0.3))) == [0.0, 0.1, 0.2, 0.3]
    rest = buffer.rest()
    assert [stamps(m) for m in rest] == [[0.1, 0.2, 0.3, 0.3], [0.2, 0.3, 0.3, 0.3]]
    assert [m.key_frame.stamp_ns / SECOND for m in rest] == [0.2, 0.3]
    assert rest[1].exists.tolist() == [True, True, False, False]
    assert buffer.rest() == []


def test_a_window_without_a_look_ahead_goes_on_when_nothing_waits() -> None:
    """A slow camera: the node asks for what waits before the next frame is there."""
    buffer = WindowBuffer(3, WindowConfig(max_gap_s=0.5))
    buffer.push(frame(0.0))
    assert buffer.rest() == []
    assert stamps(buffer.push(frame(0.3))) == [0.0, 0.0, 0.3]


@pytest.mark.parametrize("frames, lookahead", [(1, 0), (3, 0), (3, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("count", [0, 1, 2, 4, 9])
def test_every_frame_is_the_key_frame_once(frames: int, lookahead: int, count: int) -> None:
    buffer = WindowBuffer(frames, WindowConfig(), lookahead)
    moments = [buffer.push(frame(0.1 * n)) for n in range(count)]
    moments = [m for m in moments if m is not None] + buffer.rest()
    assert [round(m.key_frame.stamp_ns / SECOND * 10) for m in moments] == list(range(count))
    for moment in moments:
        assert len(moment.frames) == frames and moment.exists[moment.key]
        assert (np.diff(moment.numbers) >= 0).all()
        assert len(np.unique(moment.numbers)) == moment.exists.sum()


@pytest.mark.parametrize("next_frame", [frame(0.61), frame(0.05), frame(0.2, (8, 8))])
def test_a_gap_a_step_back_or_another_size_starts_anew(next_frame: Frame) -> None:
    buffer = WindowBuffer(2, WindowConfig(max_gap_s=0.5))
    assert not buffer.breaks(next_frame)
    buffer.push(frame(0.1))
    assert buffer.breaks(next_frame) and not buffer.breaks(frame(0.6))
    moment = buffer.push(next_frame)
    assert moment.exists.tolist() == [False, True]
    assert {f.stamp_ns for f in moment.frames} == {next_frame.stamp_ns}
    assert moment.numbers.tolist() == [1, 1]  # numbers are never used again


def test_a_single_frame_network_follows_the_box() -> None:
    buffer = WindowBuffer(1, WindowConfig())
    buffer.hold(person((0, 0, 10, 10)))
    held = buffer.hold(person((0.1, 0, 10.1, 10)))
    np.testing.assert_allclose(held.xyxy_px, [[0.1, 0, 10.1, 10]])


@pytest.mark.parametrize("frames, hold", [(2, None), (1, True)])
def test_a_box_is_held_while_it_fits_but_not_for_ever(frames: int, hold: bool | None) -> None:
    buffer = WindowBuffer(frames, WindowConfig(box_hold=3), hold=hold)
    lefts = []
    for step in range(6):
        x = 0.1 * step
        box = buffer.hold(person((x, 0, x + 10, 10))).xyxy_px
        lefts.append(round(float(box[0, 0]), 3))
    assert lefts == [0, 0, 0, 0, 0.4, 0.4]  # held for three frames after its own, then anew
    jumped = buffer.hold(person((5, 0, 15, 10))).xyxy_px
    assert jumped[0, 0] == 5


def test_held_boxes_belong_to_ids() -> None:
    buffer = WindowBuffer(2, WindowConfig(box_hold=9))
    buffer.hold(person((0, 0, 10, 10)))
    held = buffer.hold(person((0.2, 0, 10.2, 10), first=2))
    assert held.xyxy_px[0, 0] == np.float32(0.2)
    assert list(buffer._held) == [2]
