"""What a network costs for one person: time on a device, parameters, floating point operations."""

from __future__ import annotations

import copy
import time

import torch

from pose_ros.errors import ConfigError
from pose_ros.nets.cost import count_net, is_recurrent
from pose_ros.nets.video import VideoPoseNet
from pose_ros.training.predict import Network

PROTOCOL = "cost"
#: Passes before the clock starts, and passes that it measures.
WARM, RUNS = 3, 15


def measure(network: Network, device: str) -> dict[str, float]:
    """``ms`` (median) of a whole window, ``params_m``, and ``gflops`` per key frame, uncached.

    Two operations per multiply-accumulate; `grid_sample` is not counted.

    Raises:
        ConfigError: it is no video network.

    """
    net = network.module
    if not isinstance(net, VideoPoseNet):
        raise ConfigError(
            f"{network.name}: expected a video network; single-frame ones are timed by "
            "python -m pose_ros.tools.bench nets"
        )
    with torch.device("meta"):
        cost = count_net(copy.deepcopy(net).to("meta"), is_recurrent(net))
    return {
        "ms": _median_ms(net, device),
        "params_m": cost.params_m,
        "gflops": 2.0 * cost.uncached,
        "gflops_cached": 2.0 * cost.cached,
    }


def _median_ms(net: VideoPoseNet, device: str) -> float:
    """Milliseconds of a window of one person, everything encoded."""
    x = torch.zeros(1, net.window.frames, 3, *net.size_hw_px, device=device)
    spent = []
    with torch.inference_mode():
        for _ in range(WARM + RUNS):
            start = time.perf_counter()
            net(x)
            if device != "cpu":
                torch.cuda.synchronize(device)
            spent.append(1000.0 * (time.perf_counter() - start))
    return sorted(spent[WARM:])[RUNS // 2]
