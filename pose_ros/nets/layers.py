"""Blocks and heads that two or more video networks use.

Tokens are (B, L, D), row-major over (frame, row, column); maps are (B, C, h, w). The names of the
parameters in `Attention`, `Mlp`, `Block` and `ClassicHead` are those that `import_vit` writes.
"""

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-6  # of every LayerNorm, as in ViTPose


def heads_of(dim: int) -> int:
    """Return the number of attention heads of a D wide block: one per 64 channels."""
    return max(1, int(dim) // 64)


def wide(x: torch.Tensor) -> torch.Tensor:
    """Return x in at least float32: for places, and for softmax over many positions."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def for_everybody(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Repeat x (...) for the B people of `like` (B, ...): (B, ...).

    By broadcasting, because in ONNX exports the shape that `expand` asks for would be a constant.
    """
    nothing = like.flatten(1)[:, :1] * 0.0
    return x + nothing.reshape(-1, *(1 for _ in range(x.ndim)))


def tokens_to_map(tokens: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
    """(B, rows*columns, D) -> (B, D, rows, columns)."""
    return tokens.transpose(1, 2).unflatten(2, grid_hw)


def map_to_tokens(features: torch.Tensor) -> torch.Tensor:
    """(B, D, rows, columns) -> (B, rows*columns, D)."""
    return features.flatten(2).transpose(1, 2)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v in `heads` heads; q (B, L, D), k and v (B, S, D) -> (B, L, D)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class DropPath(nn.Module):
    """Stochastic depth: leaves a residual branch out for a sample with probability `rate`.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
    """

    def __init__(self, rate: float) -> None:
        """Keep the rate; 0 makes the module the identity."""
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, ...) to the same shape; the identity outside of training."""
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(1.0 - self.rate)
        return x * keep / (1.0 - self.rate)


class Attention(nn.Module):
    """Multi-head self-attention with packed q, k, v."""

    def __init__(self, dim: int, heads: int) -> None:
        """Build both projections, with biases."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(attend(q, k, v, self.heads))


class CrossAttention(nn.Module):
    """Multi-head attention of queries to another sequence."""

    def __init__(self, dim: int, heads: int) -> None:
        """Build the projections, with biases."""
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Queries (B, L, D), source (B, S, D) -> (B, L, D)."""
        k, v = self.kv(source).chunk(2, -1)
        return self.proj(attend(self.q(x), k, v, self.heads))


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        """Build both layers; `out` is `dim` when not given."""
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., out)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then an MLP of ratio 4, both residual."""

    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        """Build the block."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class FrameMlp(nn.Module):
    """One token per location from those of T frames: MLP T*D -> 2*D -> D, the same everywhere."""

    def __init__(self, dim: int, frames: int) -> None:
        """Build the MLP."""
        super().__init__()
        self.mlp = Mlp(frames * dim, 2 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, N, D) -> (B, N, D)."""
        return self.mlp(x.transpose(1, 2).flatten(2))


class Adapter(nn.Module):
    """Linear and LayerNorm from a backbone's width to a smaller `model_dim`."""

    def __init__(self, dim: int, out: int) -> None:
        """Build both layers."""
        super().__init__()
        self.linear = nn.Linear(dim, out)
        self.norm = nn.LayerNorm(out, EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., out)."""
        return self.norm(self.linear(x))


class ClassicHead(nn.Module):
    """ViTPose's classic head: two stride-2 deconvolutions, then 1x1; (rows, cols) -> 4 times that.

    Source: Xu et al., "ViTPose", NeurIPS 2022, section 3.1.
    """

    def __init__(self, dim: int, joints: int, channels: int = 256) -> None:
        """Build the head for features of `dim` channels."""
        super().__init__()
        layers: list[nn.Module] = []
        for c_in in (dim, channels):
            layers.append(nn.ConvTranspose2d(c_in, channels, 4, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        self.deconv = nn.Sequential(*layers)
        self.final = nn.Conv2d(channels, joints, 1)
        for layer in self.modules():
            if isinstance(layer, nn.ConvTranspose2d | nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.001)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D, rows, columns) -> heatmaps (B, K, 4*rows, 4*columns)."""
        return self.final(self.deconv(features))


class SimpleHead(nn.Module):
    """ViTPose's simple head: ReLU, bilinear times 4, 3x3 convolution."""

    def __init__(self, dim: int, joints: int) -> None:
        """Build the head for features of `dim` channels."""
        super().__init__()
        self.final = nn.Conv2d(dim, joints, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D, rows, columns) -> heatmaps (B, K, 4*rows, 4*columns)."""
        up = F.interpolate(features.relu(), scale_factor=4.0, mode="bilinear", align_corners=False)
        return self.final(up)


class TokenHead(nn.Module):
    """One heatmap per keypoint token, by one linear layer.

    Source: Li et al., "TokenPose", ICCV 2021, section 3.2.
    """

    def __init__(self, dim: int, size_hw: tuple[int, int]) -> None:
        """Build the head for heatmaps of `size_hw` cells."""
        super().__init__()
        self.size_hw = size_hw
        self.norm = nn.LayerNorm(dim, EPS)
        self.linear = nn.Linear(dim, size_hw[0] * size_hw[1])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, K, D) -> heatmaps (B, K, h, w)."""
        return self.linear(self.norm(tokens)).unflatten(2, self.size_hw)


def conv_bn_relu(c_in: int, c_out: int, groups: int = 1) -> nn.Sequential:
    """3x3 convolution without bias, batch norm, ReLU."""
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())
