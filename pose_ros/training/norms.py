"""Batch norms whose statistics are those of all processes' batches, on the CPU and on GPUs.

With them, n processes of B / n windows learn what one process of B windows learns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import nn


class _Sum(torch.autograd.Function):
    """Sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor of any shape."""
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Sum of the gradients."""
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` over the batches of all processes; alone, and in evaluation, the same thing.

    Source: Ioffe and Szegedy 2015, algorithm 1; the gradient goes through the sums of all
    processes. torch's own SyncBatchNorm does the same on GPUs only.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, h, w) to the same shape."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not self.training or not distributed or torch.distributed.get_world_size() == 1:
            return super().forward(x)
        wide = x.float()
        count = wide.new_tensor([float(wide.numel() // wide.shape[1])])
        sums = torch.cat((wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), count))
        sums = _Sum.apply(sums)
        total = sums[-1].detach()
        mean, square = (sums[:-1] / total).chunk(2)
        variance = (square - mean.square()).clamp_min(0.0)
        self._remember(mean.detach(), variance.detach(), float(total))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: float) -> None:
        """Update the running statistics as torch does, with the unbiased variance."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        unbiased = variance * count / max(count - 1.0, 1.0)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)


def share_batch_norms(module: nn.Module) -> int:
    """Turn every `BatchNorm2d` inside into a shared one, in place; how many there were.

    Only the class changes: parameters, statistics and names stay, so checkpoints do, too.
    """
    found = [m for m in module.modules() if type(m) is nn.BatchNorm2d]
    for norm in found:
        norm.__class__ = SharedBatchNorm2d
    return len(found)
