"""Blocks that several networks share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.nets import layers

torch.set_num_threads(1)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_tokens_are_row_major_and_come_back() -> None:
    tokens = torch.arange(6.0).view(1, 6, 1)
    grid = layers.tokens_to_map(tokens, (2, 3))
    assert grid[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(layers.map_to_tokens(grid), tokens)


def test_attention_by_hand() -> None:
    # one head of width 1: weights are softmax(q k), and q = 0 gives the mean of the values
    q, k, v = torch.zeros(1, 1, 1), torch.tensor([[[1.0], [5.0]]]), torch.tensor([[[2.0], [6.0]]])
    assert layers.attend(q, k, v, 1).item() == pytest.approx(4.0)
    q = torch.ones(1, 1, 1) * (
        torch.tensor(3.0).log() / 4.0
    )  # exp(q (5 - 1)) = 3: weights 1/4, 3/4
    assert layers.attend(q, k, v, 1).item() == pytest.approx(0.25 * 2 + 0.75 * 6)


def test_attention_is_torchs_own() -> None:
    torch.manual_seed(0)
    ours, theirs = layers.Attention(64, 4), nn.MultiheadAttention(64, 4, batch_first=True)
    nn.init.normal_(ours.qkv.bias)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
        x = noise(2, 7, 64)
        torch.testing.assert_close(ours(x), theirs(x, x, x)[0], atol=1e-5, rtol=1e-5)


def test_cross_attention_of_itself_is_self_attention() -> None:
    torch.manual_seed(0)
    one, two, x = layers.Attention(64, 2), layers.CrossAttention(64, 2), noise(2, 5, 64)
    with torch.no_grad():
        two.q.weight.copy_(one.qkv.weight[:64])
        two.q.bias.copy_(one.qkv.bias[:64])
        two.kv.weight.copy_(one.qkv.weight[64:])
        two.kv.bias.copy_(one.qkv.bias[64:])
        two.proj.load_state_dict(one.proj.state_dict())
        torch.testing.assert_close(one(x), two(x, x))


def test_attention_does_not_know_the_order() -> None:
    torch.manual_seed(0)
    block, x, order = layers.Block(64, 2), noise(2, 5, 64), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(block(x)[:, order], block(x[:, order]))


def test_drop_path_keeps_the_mean_and_is_off_in_eval() -> None:
    torch.manual_seed(0)
    drop, x = layers.DropPath(0.25), torch.ones(4000, 1)
    assert drop(x).unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert drop(x).mean().item() == pytest.approx(1.0, abs=0.05)
    assert drop.eval()(x) is x
    assert layers.DropPath(0.0)(x) is x


def test_the_frame_mlp_is_the_same_everywhere() -> None:
    torch.manual_seed(0)
    mlp, x, order = layers.FrameMlp(8, 3), noise(2, 3, 5, 8), torch.tensor([4, 2, 0, 1, 3])
    assert mlp(x).shape == (2, 5, 8)
    torch.testing.assert_close(mlp(x[:, :, order]), mlp(x)[:, order])


@pytest.mark.parametrize("dim, millions", [(384, 2.6), (768, 4.2), (1024, 5.3)])
def test_the_classic_head(dim: int, millions: float) -> None:
    head = layers.ClassicHead(dim, 17)
    assert sum(p.numel() for p in head.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert head.eval()(noise(1, dim, 2, 3)).shape == (1, 17, 8, 12)
    assert {n.rsplit(".", 1)[0] for n in head.state_dict()} == {
        "deconv.0", "deconv.1", "deconv.3", "deconv.4", "final",
    }  # fmt: skip


def test_the_simple_head_is_relu_upsample_convolution() -> None:
    head, x = layers.SimpleHead(4, 3), noise(2, 4, 3, 2)
    up = F.interpolate(x.clamp_min(0), scale_factor=4, mode="bilinear")
    torch.testing.assert_close(
        head(x), F.conv2d(up, head.final.weight, head.final.bias, padding=1)
    )


def test_the_token_head_gives_each_token_its_own_map() -> None:
    torch.manual_seed(0)
    head, x = layers.TokenHead(8, (4, 3)), noise(2, 5, 8)
    assert head(x).shape == (2, 5, 4, 3)
    torch.testing.assert_close(head(x)[:, 2:3], head(x[:, 2:3]))


def test_for_everybody() -> None:
    x, like = noise(3, 4), torch.ones(2, 5, 6, 7)
    assert torch.equal(layers.for_everybody(x, like), x.expand(2, -1, -1))
    assert layers.for_everybody(x, like[:0]).shape == (0, 3, 4)


def test_wide_never_narrows() -> None:
    assert layers.wide(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert layers.wide(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
