"""A network taught with ViTPose's codec runs live as it was taught."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from pose_ros.build import load_pose_net
from pose_ros.core.config import ModelConfig, PipelineConfig
from pose_ros.nets import checkpoint
from pose_ros.nets.checkpoint import find_card, weights_path

NAME = "movenet_lightning"


@pytest.mark.parametrize(
    ("codec", "shift", "last"),
    [("shift", -0.5, (4 * 39 - 0.5, 4 * 47 - 0.5)), ("udp", 0.0, (159.0, 191.0))],
)
def test_the_live_pipeline_maps_cells_back_by_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, shift: float,
    last: tuple[float, float],
) -> None:  # fmt: skip
    card = find_card(NAME)
    values = yaml.safe_load((card.folder / f"{NAME}.yaml").read_text())
    values |= {"codec": codec, "cell_shift_px": shift}
    (tmp_path / f"{NAME}.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / card.weights).write_bytes(weights_path(card).read_bytes())
    monkeypatch.setattr(checkpoint, "model_folders", lambda: [tmp_path])
    net = load_pose_net(PipelineConfig(device="cpu", threads=1, model=ModelConfig(name=NAME)))
    assert net.size_hw_px == (192, 160)  # 48 x 40 cells
    corners = net.crop_px_from_cell(np.array([[[0, 0], [39, 47]]], np.float32))[0]
    np.testing.assert_allclose(corners, [(shift, shift), last], rtol=1e-6)
