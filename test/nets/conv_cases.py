"""Checks that hold for every convolutional video network, and clips to learn from."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pose_ros.nets.video import PoseOut, VideoPoseNet

torch.set_num_threads(1)


def windows(net: VideoPoseNet, people: int, seed: int = 0) -> torch.Tensor:
    """Noise of the shape the network takes, (people, T, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (people, net.window.frames, 3, *net.size_hw_px)
    return torch.randn(shape, generator=generator)


def wake(net: nn.Module, seed: int = 0, spread: float = 0.05) -> nn.Module:
    """Move every parameter and statistic a little, so that no layer is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(spread * torch.randn(p.shape, generator=generator))
        for name, b in net.named_buffers():
            if name.endswith("running_mean"):
                b.add_(spread * torch.randn(b.shape, generator=generator))
            elif name.endswith("running_var"):
                b.mul_(1.0 + spread * torch.rand(b.shape, generator=generator))
    return net


def check_shapes_and_people(net: VideoPoseNet) -> None:
    """Right shape, nobody at all, and every person answered as if alone, in any order."""
    net.eval()
    x = windows(net, 3)
    h, w = (side // 4 for side in net.size_hw_px)
    with torch.no_grad():
        together = net(x).heatmaps
        assert together.shape == (3, net.joints, h, w)
        assert torch.isfinite(together).all()
        assert together.std() > 0
        assert net(x[:0]).heatmaps.shape == (0, net.joints, h, w)
        alone = torch.cat([net(x[i : i + 1]).heatmaps for i in range(3)])
        torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(net(x[[2, 0, 1]]).heatmaps, together[[2, 0, 1]])


def check_every_parameter_learns(net: VideoPoseNet) -> None:
    """Away from its initialisation, every parameter gets a finite gradient that is not zero."""
    wake(net).train()
    out = net(windows(net, 2))
    seen = [out.heatmaps, *out.aux.values()]
    generator = torch.Generator().manual_seed(5)
    sum((y * torch.randn(y.shape, generator=generator)).sum() for y in seen).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, f"{name} gets no gradient"
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, f"the gradient of {name} is zero"


def check_strict_reload(net: VideoPoseNet, again: VideoPoseNet) -> None:
    """Saved and loaded, by weights only, the network answers the same."""
    file = io.BytesIO()
    torch.save(wake(net).state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True), strict=True)
    x = windows(net, 1)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x).heatmaps, again.eval()(x).heatmaps)


class Maps(nn.Module):
    """The heatmaps alone: ONNX has no named answers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).heatmaps


def onnx_difference(net: nn.Module, inputs: list[tuple[torch.Tensor, ...]], path: Path) -> float:
    """Export with a free first axis, and return the largest difference over all inputs."""
    import onnxruntime

    names = [f"in{i}" for i in range(len(inputs[0]))]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks on shape checks, and on its own age
        wanted = [net(*args) for args in inputs]
        wanted = [(y,) if isinstance(y, torch.Tensor) else tuple(y) for y in wanted]
        outs = [f"out{i}" for i in range(len(wanted[0]))]
        axes = {name: {0: "people"} for name in (*names, *outs)}
        torch.onnx.export(
            net, inputs[0], str(path), input_names=names, output_names=outs, dynamic_axes=axes,
            opset_version=17, dynamo=False,
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    worst = 0.0
    for args, ys in zip(inputs, wanted, strict=True):
        feeds = {n: a.numpy() for n, a in zip(names, args, strict=True)}
        theirs = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
        for a, b in zip(ys, theirs, strict=True):
            worst = max(worst, float(np.abs(a.numpy() - b).max()))
    return worst


def moving_dots(net: VideoPoseNet, clips: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips in which every joint is a coloured blob that moves, and the key frame's heatmaps."""
    rng = np.random.default_rng(seed)
    (height, width), length, joints = net.size_hw_px, net.window.frames, net.joints
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = rng.normal(0, 0.1, (clips, length, 3, height, width)).astype(np.float32)
    target = np.zeros((clips, joints, height // 4, width // 4), np.float32)
    colours = rng.normal(0, 1, (joints, 3)).astype(np.float32)
    for c in range(clips):
        for j in range(joints):
            at = rng.uniform(0.25, 0.75, 2) * (height, width)
            speed = rng.normal(0, 2, 2)
            for t in range(length):
                cy, cx = at + speed * (t - net.window.key)
                blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 4.0**2))
                frames[c, t] += 2 * colours[j, :, None, None] * blob
            rows, columns = y[: height // 4, : width // 4], x[: height // 4, : width // 4]
            target[c, j] = np.exp(-((rows - at[0] / 4) ** 2 + (columns - at[1] / 4) ** 2) / 8)
    return torch.from_numpy(frames), torch.from_numpy(target)


def overfit(net: VideoPoseNet, steps: int, lr: float = 3e-3) -> tuple[float, float]:
    """Mean error of the peaks in cells, before and after learning four clips by heart."""
    torch.manual_seed(0)
    frames, target = moving_dots(net, 4)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr)

    def error(out: PoseOut) -> float:
        peaks = [m.flatten(2).argmax(2) for m in (out.heatmaps, target)]
        w = target.shape[-1]
        (y0, x0), (y1, x1) = ((p // w, p % w) for p in peaks)
        return torch.hypot((y0 - y1).float(), (x0 - x1).float()).mean().item()

    net.train()
    before = error(net(frames))
    for _ in range(steps):
        optimizer.zero_grad()
        (net(frames).heatmaps - target).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return before, error(net(frames))
