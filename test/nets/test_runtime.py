"""Runners: equality with torch, the cache, and what happens when something is missing."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from picture import drawn_person

from pose_ros.errors import ConfigError, ShapeError, WeightsError
from pose_ros.nets import checkpoint, export, runtime
from pose_ros.nets.checkpoint import Card, find_card, list_cards
from pose_ros.nets.runtime import Runner, open_runner

SMALL = "movenet_lightning"


@pytest.fixture(scope="module")
def runners(shared_cache: Path) -> dict[str, Runner]:
    """Both backends of the small pose network and of the detector, on CPU."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSE_ROS_CACHE", str(shared_cache))
        pose, detector = find_card(SMALL), find_card("nanodet_g")
        return {
            "pose": open_runner(pose, "cpu", 2),
            "detector": open_runner(detector, "cpu", 2),
            "pose_torch": runtime._torch_runner(pose, "cpu", 2, False),
            "detector_torch": runtime._torch_runner(detector, "cpu", 2, False),
        }


def people(card: Card, count: int) -> np.ndarray:
    h, w = card.input_hw
    picture = drawn_person(max(h, w))[:h, :w]
    return np.stack([np.roll(picture, 5 * i, 1) for i in range(count)])[:, None]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnx_runtime_agrees_with_torch_on_people(runners: dict[str, Runner], count: int) -> None:
    clips = people(runners["pose"].card, count)
    assert runners["pose"].backend == "onnxruntime" and runners["pose_torch"].backend == "torch"
    for ours, theirs in zip(runners["pose"](clips), runners["pose_torch"](clips), strict=True):
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("hw", [(96, 64), (256, 448), (416, 416)])
def test_a_detector_takes_any_multiple_of_32(
    runners: dict[str, Runner], hw: tuple[int, int]
) -> None:
    images = np.stack([drawn_person(448)[: hw[0], : hw[1]]] * 2)
    boxes, scores = runners["detector"](images)
    assert boxes.shape == (2, 21 * hw[0] * hw[1] // 1024, 4) and scores.shape == boxes.shape[:2]
    want_boxes, want_scores = runners["detector_torch"](images)
    np.testing.assert_allclose(scores, want_scores, atol=1e-4)
    np.testing.assert_allclose(boxes, want_boxes, atol=1e-2)


@pytest.mark.parametrize("name", ["pose", "pose_torch", "detector", "detector_torch"])
def test_no_pictures_no_run(runners: dict[str, Runner], name: str) -> None:
    runner = runners[name]
    h, w = runner.card.input_hw
    lead = (1,) if runner.card.kind == "pose" else ()
    one = runner(np.zeros((1, *lead, h, w, 3), np.uint8))
    none = runner(np.zeros((0, *lead, h, w, 3), np.uint8))
    assert [a.shape for a in none] == [(0, *b.shape[1:]) for b in one]


@pytest.mark.parametrize(
    ("kind", "pictures", "text"),
    [
        ("pose", np.zeros((1, 1, 192, 160, 3), np.float32), "wants uint8 RGB .* got float32"),
        ("pose", np.zeros((1, 192, 160, 3), np.uint8), r"\(P, 1, 192, 160, 3\), got \(1, 192"),
        ("pose", np.zeros((1, 1, 160, 192, 3), np.uint8), r"got \(1, 1, 160, 192, 3\)"),
        ("pose", [[0]], "wants uint8 RGB pictures, got list"),
        ("detector", np.zeros((1, 100, 64, 3), np.uint8), r"multiples of 32, got \(1, 100, 64"),
        ("detector", np.zeros((1, 0, 64, 3), np.uint8), r"multiples of 32, got \(1, 0, 64, 3\)"),
        ("detector", np.zeros((64, 64, 3), np.uint8), r"multiples of 32, got \(64, 64, 3\)"),
    ],
)  # fmt: skip
def test_other_pictures_are_refused(
    runners: dict[str, Runner], kind: str, pictures: np.ndarray, text: str
) -> None:
    with pytest.raises(ShapeError, match=text):
        runners[kind](pictures)


def test_pictures_need_not_be_contiguous(runners: dict[str, Runner]) -> None:
    clips = people(runners["pose"].card, 1)
    for ours, theirs in zip(
        runners["pose"](clips[..., ::-1]), runners["pose"](clips[..., ::-1].copy()), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_an_export_is_kept_and_says_what_was_checked(
    runners: dict[str, Runner], shared_cache: Path
) -> None:
    report = json.loads(next(shared_cache.glob(f"{SMALL}-*.json")).read_text())
    assert report["name"] == SMALL and report["max_abs_diff"] <= export.MAX_ABS_DIFF
    left = {path.suffix for path in shared_cache.iterdir()}
    assert left == {".onnx", ".json"}  # no drafts


def test_a_damaged_export_is_made_again(cache: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = export.cached_onnx(find_card(SMALL))
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1000])
    assert export.cached_onnx(find_card(SMALL)) == path and path.stat().st_size == whole


def test_an_export_that_disagrees_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "_difference", lambda *_: (float("nan"),) * 2)
    with caplog.at_level(logging.WARNING):
        runner = open_runner(find_card(SMALL), "cpu", 2)
    assert runner.backend == "torch" and not list(cache.glob("*.onnx"))
    assert "runs in torch" in caplog.text and "export differs from torch by nan" in caplog.text


def test_without_onnx_runtime_torch_answers_aloud(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with caplog.at_level(logging.WARNING):
        runner = open_runner(find_card(SMALL), "cpu", 2)
    assert runner.backend == "torch" and runner.device == "cpu"
    assert f"{SMALL} runs in torch, slower than in ONNX Runtime" in caplog.text
    assert "onnxruntime" in caplog.text
    assert runner(people(runner.card, 1))[0].shape == (1, 17, 48, 40)


def test_a_cache_that_cannot_be_written_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POSE_ROS_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        assert open_runner(find_card(SMALL), "cpu", 2).backend == "torch"
    assert "runs in torch" in caplog.text


def test_missing_weights_fail_even_with_an_export(
    runners: dict[str, Runner], shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = find_card(SMALL)
    monkeypatch.setenv("POSE_ROS_CACHE", str(shared_cache))
    monkeypatch.setattr(checkpoint, "weights_path", lambda _: tmp_path / "gone.safetensors")
    with pytest.raises(WeightsError, match="are missing"):
        open_runner(card, "cpu", 2)


def test_once_exported_torch_is_not_imported(
    runners: dict[str, Runner], shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSE_ROS_CACHE", str(shared_cache))
    code = (
        "import sys, numpy as np\n"
        "from pose_ros.nets.checkpoint import find_card\n"
        "from pose_ros.nets.runtime import open_runner\n"
        f"runner = open_runner(find_card('{SMALL}'), 'cpu', 2)\n"
        "runner(np.zeros((1, 1, 192, 160, 3), np.uint8))\n"
        "sys.exit(runner.backend != 'onnxruntime' or 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "cpu:0", "auto:1", ""])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="use auto, cpu, cuda or cuda:N"):
        runtime.resolve_device(device)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'cuda:99' is not there: torch sees \d+ GPUs"):
        runtime.resolve_device("cuda:99")


def test_auto_is_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "GPU_NODES", ())
    assert runtime.resolve_device("auto") == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("card", list_cards(), ids=lambda card: card.name)
def test_a_gpu_agrees_with_the_cpu(card: Card, half: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    h, w = card.input_hw
    shape = (2, card.frames, h, w, 3) if card.kind == "pose" else (2, h, w, 3)
    pictures = np.broadcast_to(drawn_person(max(h, w))[:h, :w], shape)
    slow = runtime._torch_runner(card, "cpu", 2, False)(pictures)
    fast = open_runner(card, "cuda", half=half)(pictures)
    for a, b in zip(slow, fast, strict=True):
        assert np.abs(a - b).mean() < (0.05 if half else 5e-3)
