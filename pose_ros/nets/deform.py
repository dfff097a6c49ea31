"""Sampling of feature maps at learned, fractional places, by bilinear interpolation.

Everything exports to ONNX (opset 16 and later) and needs no torchvision. `sample_map` is
`grid_sample`; `deform_conv2d` is torchvision's fused kernel where that imports, and `read_rows` in
exports: ONNX Runtime's GridSample works out every place anew for every channel, which was two
thirds of a network's time. Places are counted in cells: 0 is the centre of the first
cell, size - 1 that of the last.

Checked in `test/nets/test_deform.py` against 5-D `grid_sample`, a plain convolution, and
torchvision's operator where it is installed.
"""

import torch
import torch.nn.functional as F

from pose_ros.nets.layers import wide

try:
    from torchvision.ops import deform_conv2d as _fused_deform_conv2d
except (ImportError, RuntimeError):  # a torchvision of another torch raises a RuntimeError
    _fused_deform_conv2d = None


def lattice(*sizes: int, like: torch.Tensor) -> torch.Tensor:
    """Return the places of all cells of a (..., rows, columns) grid, (*sizes, len(sizes)).

    The last axis is (x, y) for sizes (rows, columns) and (x, y, t) for (T, rows, columns).
    """
    axes = [torch.arange(size, device=like.device, dtype=like.dtype) for size in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)


def sample_map(
    features: torch.Tensor, places: torch.Tensor, padding: str = "zeros"
) -> torch.Tensor:
    """Read maps (N, C, h, w) at places (N, P, Q, 2), (x, y) in cells; returns (N, C, P, Q).

    Outside of the map the value is zero, or that of the border with ``padding="border"``.
    """
    rows, columns = (int(side) for side in features.shape[-2:])
    maps = wide(features)  # places in bfloat16 would be wrong by a tenth of a cell
    scale = places.new_tensor([2.0 / max(columns - 1, 1), 2.0 / max(rows - 1, 1)])
    grid = (places * scale - 1.0).to(maps.dtype)
    return F.grid_sample(maps, grid, "bilinear", padding, align_corners=True).to(features.dtype)


def sample_volume(features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Read volumes (N, C, T, h, w) at places (N, P, Q, 3), (x, y, t); returns (N, C, P, Q).

    Trilinear, the border's value outside. Each of the T maps is read bilinearly and weighted by
    its distance in time, which equals 5-D `grid_sample` and, unlike it, exports before opset 20;
    with T = 1 it is `sample_map`.
    """
    length = features.shape[2]
    time = places[..., 2].clamp(0.0, length - 1.0)
    weights = [(1.0 - (time - t).abs()).clamp_min(0.0).to(features.dtype) for t in range(length)]
    read = [sample_map(features[:, :, t], places[..., :2], "border") for t in range(length)]
    return torch.stack([w[:, None] * r for w, r in zip(weights, read, strict=True)]).sum(0)


def read_rows(
    features: torch.Tensor, places: torch.Tensor, factor: torch.Tensor | None = None
) -> torch.Tensor:
    """Read maps (N, C, h, w) at places (N, S, 2), (x, y) in cells, zero outside; (N, S, C).

    The numbers of `sample_map`, times a ``factor`` (N, S), by four lookups of all C channels.
    """
    channels, rows, columns = (int(side) for side in features.shape[1:])
    ring = F.pad(wide(features), (1, 1, 1, 1))  # beyond it everything is zero, too
    table = ring.flatten(2).transpose(1, 2).reshape(-1, channels)
    across = columns + 2
    x, y = (places[..., 0] + 1.0).clamp(0.0, columns + 1.0), places[..., 1] + 1.0
    y = y.clamp(0.0, rows + 1.0)  # cells of the ring
    left, top = x.floor().clamp_max(columns), y.floor().clamp_max(rows)
    right, below = x - left, y - top
    lower = below if factor is None else below * factor
    upper = 1.0 - below if factor is None else factor - lower
    # The number of a person, 0 ... N - 1: made of values, as exports take a shape for a constant.
    person = ((top[:, :1] * 0.0 + 1.0).cumsum(0) - 1.0).long()
    at = person * (across * (rows + 2)) + (top * across + left).long()
    read: torch.Tensor | None = None
    for step, weight in (
        (0, upper - upper * right),
        (1, upper * right),
        (across, lower - lower * right),
        (across + 1, lower * right),
    ):
        term = table[(at + step).flatten()] * weight.flatten()[:, None].to(table.dtype)
        read = term if read is None else read + term
    assert read is not None
    return read.reshape(-1, places.shape[1], channels).to(features.dtype)


def _read(
    features: torch.Tensor, places: torch.Tensor, factor: torch.Tensor | None
) -> torch.Tensor:
    """As `read_rows`, which is fast in exports; `grid_sample` has the faster gradient."""
    if torch.jit.is_tracing():
        return read_rows(features, places, factor)
    values = sample_map(features, places[:, :, None])[..., 0].transpose(1, 2)
    return values if factor is None else values * factor[..., None].to(values.dtype)


def deform_conv2d(
    features: torch.Tensor,
    offsets: torch.Tensor,
    weight: torch.Tensor,
    mask: torch.Tensor | None = None,
    dilation: int = 1,
) -> torch.Tensor:
    """Modulated deformable convolution, stride 1, "same" size, without bias.

    Features (N, C, h, w); weight (D, C, k, k), k odd; offsets (N, G*2*k*k, h, w), for each of the
    G groups of channels and each tap, row by row, (dy, dx) in cells; mask (N, G*k*k, h, w)
    multiplies the sampled values. Returns (N, D, h, w).
    Source: Zhu et al., "Deformable ConvNets v2", CVPR 2019, eq 1; the layout is torchvision's.
    """
    kernel, padding = weight.shape[-1], dilation * (weight.shape[-1] // 2)
    if _fused_deform_conv2d is not None and not torch.jit.is_tracing():
        return _fused_deform_conv2d(
            features, offsets, weight, padding=padding, dilation=dilation, mask=mask
        )
    taps = kernel * kernel
    channels, rows, columns = features.shape[1:]
    groups = offsets.shape[1] // (2 * taps)
    moves = wide(offsets).unflatten(1, (groups, taps, 2)).flip(3)  # (N, G, taps, (x, y), h, w)
    moves = moves.permute(0, 1, 4, 5, 2, 3)  # (N, G, h, w, taps, 2)
    steps = lattice(kernel, kernel, like=moves).flatten(0, 1) * dilation - padding  # (taps, 2)
    places = lattice(rows, columns, like=moves)[:, :, None] + steps + moves
    grouped = features.reshape(-1, channels // groups, rows, columns)  # (N*G, C/G, h, w)
    if mask is not None:
        mask = wide(mask).reshape(-1, taps, rows * columns).transpose(1, 2).flatten(1)
    values = _read(grouped, places.reshape(-1, rows * columns * taps, 2), mask)
    values = values.reshape(-1, groups, rows * columns, taps, channels // groups)
    values = values.permute(0, 2, 3, 1, 4).flatten(2)  # (N, h*w, taps * C)
    out = values @ weight.permute(2, 3, 1, 0).flatten(0, 2)  # (N, h*w, D)
    return out.transpose(1, 2).unflatten(2, (rows, columns))
