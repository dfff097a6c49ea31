"""What a network costs for one person: time on a device, parameters, floating point operations."""

from __future__ import annotations

import copy
import time

import numpy as np
import torch

from pose_ros.errors import ConfigError
from pose_ros.nets.cost import count_net, is_recurrent
from pose_ros.nets.video import VideoPoseNet
from pose_ros.training.predict import Network

PROTOCOL = "cost"
#: Passes before the clock starts, and passes that it measures: on a GPU, and on a CPU, where the
#: clock of a pass is steadier and a pass takes up to seconds.
GPU_RUNS, CPU_RUNS = (50, 200), (3, 15)


def measure(network: Network, device: str) -> dict[str, float]:
    """``ms`` and ``ms_p95`` of a window (median first), ``params_m``, ``gflops`` per key frame.

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
        **_spent_ms(net, device),
        "params_m": cost.params_m,
        "gflops": 2.0 * cost.uncached,
        "gflops_cached": 2.0 * cost.cached,
    }


def _spent_ms(net: VideoPoseNet, device: str) -> dict[str, float]:
    """Milliseconds of a window of one person, everything encoded."""
    warm, runs = CPU_RUNS if device == "cpu" else GPU_RUNS
    x = torch.zeros(1, net.window.frames, 3, *net.size_hw_px, device=device)
    spent = []
    with torch.inference_mode():
        for _ in range(warm + runs):
            start = time.perf_counter()
            net(x)
            if device != "cpu":
                torch.cuda.synchronize(device)
            spent.append(1000.0 * (time.perf_counter() - start))
    middle, high = np.percentile(spent[warm:], (50, 95))
    return {"ms": float(middle), "ms_p95": float(high)}
