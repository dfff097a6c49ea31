"""What the tests of the networks share."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def walker() -> np.ndarray:
    """The real picture of the test data: (360, 640, 3) uint8 RGB, one man at about x 300."""
    import cv2

    return cv2.imread(str(DATA / "walker.jpg"))[..., ::-1]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for exports."""
    monkeypatch.setenv("POSE_ROS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for exports that the session's tests fill once."""
    return tmp_path_factory.mktemp("exports")
