"""Datasets by name: ``parse_spec("posetrack18:/data/pt18?split=val")``.

A dataset is a file of this folder with a function that `register_dataset` decorates. Its first
parameter is the path of the specification, the others are its options: keyword parameters with a
default, whose type converts the text of the specification. Windows are the options ``frames``,
``key`` and ``step``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from urllib.parse import parse_qsl

from pose_ros.errors import ConfigError
from pose_ros.training.datasets.base import (
    ArrayImage,
    ClipDataset,
    ClipSample,
    FileImage,
    ImageRef,
    Subset,
    VideoImage,
    WindowSpec,
    samples,
)

__all__ = [
    "ArrayImage", "ClipDataset", "ClipSample", "FileImage", "ImageRef", "Subset", "VideoImage",
    "WindowSpec", "dataset_options", "list_datasets", "parse_spec", "register_dataset", "samples",
]  # fmt: skip

Factory = Callable[..., ClipDataset]

_FACTORIES: dict[str, Factory] = {}


def register_dataset(name: str) -> Callable[[Factory], Factory]:
    """Register the decorated function ``(path, option=default, ...)`` as the dataset ``name``."""

    def register(factory: Factory) -> Factory:
        if name in _FACTORIES:
            raise ConfigError(f"two datasets are called '{name}': rename one of them")
        _FACTORIES[name] = factory
        return factory

    return register


def list_datasets() -> list[str]:
    """Names of all datasets, sorted."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_FACTORIES)


def dataset_options(name: str) -> dict[str, object]:
    """Options of a dataset with their defaults.

    Raises:
        ConfigError: there is no such dataset.

    """
    if name not in list_datasets():
        raise ConfigError(f"there is no dataset '{name}'; there are {', '.join(list_datasets())}")
    legal = list(inspect.signature(_FACTORIES[name]).parameters.values())[1:]
    return {option.name: option.default for option in legal}


def parse_spec(spec: str, **defaults: object) -> ClipDataset:
    """Open the dataset of ``NAME:PATH?option=value&option=value``.

    ``defaults`` are options that the specification may override; one that the dataset does not
    have is ignored.

    Raises:
        ConfigError: an unknown dataset or option, or a value of the wrong type.
        SourceError: the files are missing or not what the dataset's layout says.

    """
    name, _colon, rest = spec.partition(":")
    path, _mark, query = rest.partition("?")
    known = list_datasets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
        raise ConfigError(
            f"dataset specification '{spec}': expected NAME:PATH?option=value, and there is no "
            f"dataset '{name}'; did you mean {', '.join(near)}?"
        )
    types = {option: type(default) for option, default in dataset_options(name).items()}
    options = {key: value for key, value in defaults.items() if key in types}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in types:
            raise ConfigError(f"dataset {name} has no option '{key}'; it has {', '.join(types)}")
        options[key] = _convert(key, text, types[key])
    return _FACTORIES[name](path, **options)


def _convert(key: str, text: str, kind: type) -> object:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise ConfigError(f"option {key}: expected {kind.__name__}, got '{text}'") from None
