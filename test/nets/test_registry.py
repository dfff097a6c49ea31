"""Networks by name."""

import pytest
import torch

from pose_ros.errors import ConfigError
from pose_ros.nets import registry
from pose_ros.nets.checkpoint import list_cards
from pose_ros.nets.registry import build_net, list_nets, register_net


def test_every_card_names_a_network() -> None:
    assert {card.architecture for card in list_cards()} <= set(list_nets())


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"'movenet_thundr'; did you mean movenet_thunder"):
        build_net("movenet_thundr")


def test_overrides_reach_the_config() -> None:
    assert build_net("movenet_lightning", joints=5).config.joints == 5


def test_a_name_can_be_taken_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    register_net("twice")(torch.nn.Identity)
    with pytest.raises(ConfigError, match="two networks are called 'twice'"):
        register_net("twice")(torch.nn.Identity)
