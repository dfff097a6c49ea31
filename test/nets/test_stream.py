"""Streams: what is kept changes nothing but the cost."""

import dataclasses
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stream_cases import (
    FAMILIES,
    SECOND,
    affine,
    answer_without_cache,
    normalised,
    picture,
    pictures,
    small_card,
    window,
)

from pose_ros.errors import ConfigError, ShapeError, WeightsError
from pose_ros.nets import hstpn
from pose_ros.nets.checkpoint import Card, find_card, load_net, with_latency
from pose_ros.nets.stream import (
    OnnxParts,
    StreamRunner,
    TorchParts,
    cells_old_from_new,
    open_stream,
)

WINDOWED = [name for name, (*_, recurrent) in FAMILIES.items() if not recurrent]
#: Frames of a stream: the window, who is there and where (shift of the crop, px), and how many
#: pictures must be encoded.
STORY = [
    (window(0, last=0), {7: 0.0}, 1),  # nothing before and nothing after: one frame, repeated
    (window(1), {7: 0.0}, 1),  # the crop is held
    (window(2), {7: 0.0}, 1),
    (window(3), {7: 0.0, 9: 5.0}, 1 + 3),  # somebody new
    (window(4), {9: 5.0, 7: 0.0}, 2),  # in another order
    (window(5), {9: 5.0, 7: 8.0}, 1 + 3),  # a crop moved
    (window(6), {9: 5.0}, 1),  # somebody left
    (window(7), {}, 0),
    (window(8), {9: 5.0, 7: 8.0}, 2 + 3),  # two frames were not encoded; 7 was forgotten
    (window(20, oldest=20), {9: 5.0, 7: 8.0}, 2),  # after a gap
    (window(21, oldest=20), {9: 5.0, 7: 8.0}, 2),
    (window(22, oldest=20), {n: float(n) for n in range(12)}, 12 * 3),  # a crowd
    (window(23, oldest=20), {n: float(n) for n in range(12)}, 12),
]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSE_ROS_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def look(
    runner: StreamRunner, who: dict[int, float], numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Show a frame; heatmaps, crops and how many pictures were asked for."""
    ids = np.array(list(who), np.int64)
    crops = np.array([affine(shift) for shift in who.values()], np.float32).reshape(-1, 2, 3)
    wanted = runner.wanted(ids, crops, numbers)
    assert len(np.unique(wanted, axis=0)) == len(wanted)
    shown = pictures(runner.card, crops, numbers, wanted)
    if len(ids) == 0:
        return np.zeros(0), crops, len(wanted)
    heatmaps = runner.run(ids, crops, numbers, int(numbers[-1]) * SECOND // 30, shown)
    return heatmaps, crops, len(wanted)


def check_story(runner: StreamRunner, card: Card) -> None:
    """Every frame of STORY is answered as if nothing were kept."""
    net = load_net(card)
    for step, (numbers, who, encoded) in enumerate(STORY):
        heatmaps, crops, count = look(runner, who, numbers)
        assert count == encoded, f"frame {step}"
        if who:
            alone = answer_without_cache(net, card, crops, numbers)
            assert alone.std() > 1e-3
            np.testing.assert_allclose(heatmaps, alone, atol=1e-4, err_msg=f"frame {step}")


@pytest.mark.parametrize("family", WINDOWED)
def test_kept_features_change_nothing_in_torch(family: str, tmp_path: Path) -> None:
    card = small_card(tmp_path, family)
    check_story(StreamRunner(card, TorchParts(card, "cpu", 1)), card)


@pytest.mark.parametrize("family", WINDOWED)
def test_kept_features_change_nothing_in_onnx_runtime(family: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    card = small_card(tmp_path, family)
    runner = open_stream(card, "cpu", 1)
    assert runner.backend == "onnxruntime"
    check_story(runner, card)


def test_a_causal_window_has_the_newest_frame_for_its_key(tmp_path: Path) -> None:
    modes = {"delayed_1": {"key": 1}, "causal": {"key": 2}}
    delayed = small_card(tmp_path, "pstpose", latency_modes=modes)
    card = with_latency(delayed, "causal")
    assert (card.lookahead_frames, card.mode, delayed.mode) == (0, "causal", "delayed")
    assert load_net(card).window.lookahead == 0
    check_story(StreamRunner(card, TorchParts(card, "cpu", 1)), card)
    assert with_latency(card, "delayed_1").overrides == {**card.overrides, "key": 1}
    with pytest.raises(ConfigError, match="small_pstpose runs causal, delayed_1, not delayed_2"):
        with_latency(delayed, "delayed_2")


def remembered(card: Card, story: list[tuple[int, dict[int, np.ndarray]]]) -> list[np.ndarray]:
    """Heatmaps of the newest frame by HSTPN's own `step`, `pick` and `recrop`."""
    net = load_net(card)
    known: list[int] = []
    crops = torch.zeros(0, 2, 3)
    state = net.start(0, torch.zeros(1))
    stamps: dict[int, int] = {}
    out = []
    with torch.no_grad():
        for number, who in story:
            rows = torch.tensor([known.index(i) if i in known else -1 for i in who])
            now = torch.from_numpy(np.array(list(who.values())))
            state = hstpn.pick(state, rows)
            before = torch.where((rows >= 0)[:, None, None], crops[rows], now) if known else now
            gap_s = torch.tensor([(number - stamps.get(i, number)) / 30 for i in who])
            state = net.recrop(state, hstpn.cells_old_from_new(before, now), gap_s)
            shown = np.array([picture(card, number, crop) for crop in who.values()])
            answer, state = net.step(net.encode(normalised(card, shown))[0], state)
            out.append(answer.heatmaps.numpy())
            known, crops = list(who), now
            stamps = dict.fromkeys(who, number)
    return out


MEMORIES = [
    (0, {7: affine()}),
    (1, {7: affine()}),
    (2, {7: affine(), 9: affine(5.0)}),
    (3, {9: affine(5.0), 7: affine(8.0)}),  # 7 moves by two cells
    (4, {9: affine(3.0, 1.25), 7: affine(8.0)}),  # 9 comes nearer
    (5, {9: affine(90.0), 7: affine(8.0)}),  # 9 jumps: what was remembered is elsewhere
    (6, {9: affine(90.0), 7: affine(8.0)}),
    (30, {9: affine(90.0), 7: affine(8.0)}),  # a gap of 0.8 s: the memory is too old
    (31, {9: affine(90.0), 7: affine(8.0)}),
]  # fmt: skip


@pytest.mark.parametrize("onnx", [False, True])
def test_a_memory_follows_its_person(onnx: bool, tmp_path: Path) -> None:
    if onnx:
        pytest.importorskip("onnxruntime")
    card = small_card(tmp_path, "hstpn")
    runner = StreamRunner(card, OnnxParts(card, 1) if onnx else TorchParts(card, "cpu", 1))
    fresh = StreamRunner(card, TorchParts(card, "cpu", 1))
    truth = remembered(card, MEMORIES)
    for (number, who), wanted in zip(MEMORIES, truth, strict=True):
        ids, crops, numbers = np.array(list(who)), np.array(list(who.values())), [number]
        assert runner.wanted(ids, crops, numbers).tolist() == [[p, 0] for p in range(len(ids))]
        shown = np.array([picture(card, number, crop) for crop in crops])
        got = runner.run(ids, crops, numbers, number * SECOND // 30, shown)
        np.testing.assert_allclose(got, wanted, atol=1e-4, err_msg=f"frame {number}")
        fresh.reset()
        alone = fresh.run(ids, crops, numbers, 0, shown)
        forgot = number in (0, 30)  # for both
        assert (np.abs(alone - got).max() < 1e-4) == forgot, f"frame {number}"


def test_cells_of_a_crop_half_the_size() -> None:
    """New crop: the right lower quarter of the old one, enlarged by 2; cells centred in 4 px."""
    old, new = affine(-0.5 + 0.5), np.array([[0.5, 0, 31.75], [0, 0.5, 31.75]], np.float32)
    cells = cells_old_from_new(old[None], new[None], 1.5)[0]
    # the new crop's left edge, cell -0.5, is the old crop's middle of 16 cells, 7.5
    np.testing.assert_allclose(cells @ [-0.5, -0.5, 1], [7.5, 7.5, 1], atol=1e-6)
    np.testing.assert_allclose(cells @ [15.5, 15.5, 1], [15.5, 15.5, 1], atol=1e-6)


@pytest.mark.parametrize("family", ["pstpose", "hstpn"])
def test_what_is_kept_is_bounded_and_given_back(family: str, tmp_path: Path) -> None:
    card = small_card(tmp_path, family)
    runner = StreamRunner(card, TorchParts(card, "cpu", 1))
    sizes = []
    for frame in range(40):  # everybody is replaced every other frame
        numbers = window(frame, length=runner.length)
        look(runner, {2 * (frame // 2) + i: float(i) for i in range(2)}, numbers)
        sizes.append(runner.nbytes)
    assert max(sizes[20:]) == max(sizes[30:])  # slots of people who left are used again
    per_person = sizes[0] / 2
    # a window remembers who was there two frames ago; a memory, for a second
    assert max(sizes) <= (8 if family == "pstpose" else 64) * per_person
    look(runner, {}, window(100, oldest=100, length=runner.length))
    look(runner, {999: 0.0}, window(200, oldest=200, length=runner.length))
    assert runner.people == 1 and runner.nbytes == per_person
    runner.reset()
    assert runner.nbytes == 0 and runner.people == 0


def test_other_pictures_than_wanted_are_refused(tmp_path: Path) -> None:
    card = small_card(tmp_path, "pstpose")
    runner = StreamRunner(card, TorchParts(card, "cpu", 1))
    ids, crops = np.array([1]), affine()[None]
    good = np.zeros((3, 64, 48, 3), np.uint8)
    for bad, text in [
        (good[:2], r"pictures of shape \(3, 64, 48, 3\), got \(2, 64"),
        (good[:, :, :40], r"got \(3, 64, 40, 3\)"),
        (good.astype(np.float32), "wants uint8 RGB pictures, got float32"),
    ]:
        with pytest.raises(ShapeError, match=text):
            runner.run(ids, crops, np.arange(3), 0, bad)
    with pytest.raises(ShapeError, match=r"windows of 3 frames, got \(2,\)"):
        runner.wanted(ids, crops, np.arange(2))
    with pytest.raises(ShapeError, match="expected somebody"):
        runner.run(ids[:0], crops[:0], np.arange(3), 0, good[:0])
    assert runner.run(ids, crops, np.arange(3), 0, good).shape == (1, 5, 16, 12)


def test_a_single_frame_network_is_no_stream() -> None:
    with pytest.raises(ConfigError, match="sees single frames"):
        open_stream(find_card("movenet_thunder"), "cpu", 1)


def test_without_onnx_runtime_torch_answers_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    card = small_card(tmp_path, "pstpose")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with caplog.at_level(logging.WARNING):
        assert open_stream(card, "cpu", 1).backend == "torch"
    assert "small_pstpose runs in torch, slower than in ONNX Runtime" in caplog.text


def test_an_untrained_network_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    card = small_card(tmp_path, "pstpose")
    random = dataclasses.replace(card, untrained=True, weights="", sha256="", bytes=0)
    with caplog.at_level(logging.WARNING):
        open_stream(card, "cpu", 1)
        assert "UNTRAINED" not in caplog.text
        open_stream(random, "cpu", 1)
    assert "small_pstpose is UNTRAINED: its joints are meaningless" in caplog.text


def test_damaged_weights_fail_even_with_an_export(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    card = small_card(tmp_path, "pstpose")
    open_stream(card, "cpu", 1)
    path = tmp_path / card.weights
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"bytes, card small_pstpose says"):
        open_stream(card, "cpu", 1)


@pytest.mark.gpu
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_gpu_keeps_features_too(family: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    card = small_card(tmp_path, family)
    slow = StreamRunner(card, TorchParts(card, "cpu", 1))
    fast = open_stream(card, "cuda")
    for numbers, who, _ in STORY:
        numbers = numbers[-slow.length :]
        if who:
            np.testing.assert_allclose(
                look(slow, who, numbers)[0], look(fast, who, numbers)[0], atol=5e-3
            )
