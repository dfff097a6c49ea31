"""Networks by name; registering a function is what makes a network known, and tested."""

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pose_ros.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

# Files of this folder that register networks.
MODULES = (
    "movenet", "nanodet", "resnet", "hrnet", "vit", "hstpn", "pstpose", "vremd", "stdpose", "dsa",
    "lifter",
)  # fmt: skip

_BUILDERS: dict[str, Callable[..., "nn.Module"]] = {}


def register_net(name: str) -> Callable[[Callable[..., "nn.Module"]], Callable[..., "nn.Module"]]:
    """Register the decorated function as the builder of the network `name`."""

    def register(builder: Callable[..., "nn.Module"]) -> Callable[..., "nn.Module"]:
        if name in _BUILDERS:
            raise ConfigError(f"two networks are called {name!r}: rename one of them")
        _BUILDERS[name] = builder
        return builder

    return register


def list_nets() -> list[str]:
    """Return the names of all networks, sorted."""
    for module in MODULES:
        importlib.import_module(f"pose_ros.nets.{module}")
    return sorted(_BUILDERS)


def build_net(name: str, **overrides: object) -> "nn.Module":
    """Build the network `name` with random weights; overrides replace fields of its config.

    Raises:
        ConfigError: no network has this name, or it has no such option.
    """
    known = list_nets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise ConfigError(f"no network is called {name!r}; did you mean {', '.join(near)}?")
    return _BUILDERS[name](**overrides)
