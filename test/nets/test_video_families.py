"""What holds for all five video networks: half precision, one picture, people in any order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stream_cases import (
    FAMILIES,
    affine,
    answer_without_cache,
    normalised,
    picture,
    pictures,
    small_card,
)

from pose_ros.nets.checkpoint import Card, load_net
from pose_ros.nets.stream import StreamRunner, TorchParts

torch.set_num_threads(1)
FP16_ON_CPU = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported()
#: Largest difference from float32 over the heatmaps' peak; clusters are a choice, which may flip.
TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}
TOLERANCE_OF_CLUSTERS = 0.5

families = pytest.mark.parametrize("family", list(FAMILIES))


@families
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_close(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    if dtype == torch.float16 and not FP16_ON_CPU:
        pytest.skip("this CPU has no float16")
    card = small_card(tmp_path, family)
    net = load_net(card)
    shown = np.array([[picture(card, n, affine(p)) for n in range(3)] for p in (0, 8)])
    x = normalised(card, shown)
    with torch.no_grad():
        exact = net(x).heatmaps
        with torch.autocast("cpu", dtype):
            rough = net(x).heatmaps.float()
    limit = TOLERANCE_OF_CLUSTERS if family == "pstpose" else TOLERANCE[dtype]
    assert exact.std() > 0.01 * exact.abs().max()
    assert (rough - exact).abs().max() < limit * exact.abs().max()


def stream(card: Card) -> StreamRunner:
    return StreamRunner(card, TorchParts(card, "cpu", 1))


@families
def test_a_single_picture_is_a_window_of_itself(family: str, tmp_path: Path) -> None:
    card = small_card(tmp_path, family)
    runner = stream(card)
    crops, ids = affine(4)[None], np.array([7])
    alone = np.full(3, 5)
    numbers = alone[: runner.length]
    wanted = runner.wanted(ids, crops, numbers)
    assert len(wanted) == 1
    heatmaps = runner.run(ids, crops, numbers, 0, pictures(card, crops, numbers, wanted))
    assert heatmaps.shape == (1, 5, card.input_hw[0] // 4, card.input_hw[1] // 4)
    if not card.recurrent:
        want = answer_without_cache(load_net(card), card, crops, alone)
    else:  # a memory of nothing: the network with a window of one frame
        net = load_net(card)
        x = normalised(card, picture(card, 5, crops[0])[None])
        with torch.no_grad():
            (feature,) = net.encode(x)
            want = net.step(feature, net.start(1, feature))[0].heatmaps.numpy()
    np.testing.assert_allclose(heatmaps, want, atol=1e-5)
    assert heatmaps.std() > 1e-3


@families
def test_people_may_come_in_any_order_and_do_not_touch_each_other(
    family: str, tmp_path: Path
) -> None:
    card = small_card(tmp_path, family)
    shifts = {3: 0.0, 9: 16.0, 4: 40.0}

    def answers(orders: list[list[int]]) -> dict[int, np.ndarray]:
        runner = stream(card)
        for step, order in enumerate(orders):
            crops = np.array([affine(shifts[who]) for who in order])
            numbers = np.clip(np.arange(step - runner.length + 1, step + 1), 0, None)
            wanted = runner.wanted(np.array(order), crops, numbers)
            shown = pictures(card, crops, numbers, wanted)
            heatmaps = runner.run(np.array(order), crops, numbers, step * 33_000_000, shown)
        return dict(zip(orders[-1], heatmaps, strict=True))

    together = answers([[3, 9, 4]] * 4)
    mixed = answers([[3, 9, 4], [4, 3, 9], [9, 4, 3], [4, 9, 3]])
    for who, heatmaps in together.items():
        np.testing.assert_allclose(mixed[who], heatmaps, atol=1e-5)
        np.testing.assert_allclose(answers([[who]] * 4)[who], heatmaps, atol=1e-5)
    assert np.abs(together[3] - together[9]).max() > 1e-3
