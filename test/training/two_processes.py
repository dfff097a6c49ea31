"""Trains TINY for some steps; run alone or under torchrun. Arguments: folder, key=value ..."""

import sys

import torch

sys.path.insert(0, __file__.rsplit("/", 1)[0])

import dots
import yaml

from pose_ros.training.train import run

torch.set_num_threads(1)
changes = {n: yaml.safe_load(v) for n, v in (a.split("=", 1) for a in sys.argv[2:])}
run(dots.config(out=sys.argv[1], **{n.replace(".", "__"): v for n, v in changes.items()}))
