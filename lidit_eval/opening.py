"""Opens the model that an evaluation draws with, by its command line."""

from __future__ import annotations

import argparse

from lidit_core.dtypes import torch_dtype
from lidit_core.errors import check
from lidit_core.pipeline import Settings, load_pipeline

from .bridge_drawer import BridgeDrawer
from .drawers import AdapterDrawer
from .drawing import Drawer, LiDiTDrawer


def open_drawer(args: argparse.Namespace, device: str) -> Drawer:
    """Load what the command line of `lidit eval` names."""
    check(
        not (args.adapter and args.bridge),
        f"--adapter {args.adapter} and --bridge {args.bridge} are both there; expected one of them",
    )
    if args.adapter:
        return AdapterDrawer(args, device)
    if args.bridge:
        return BridgeDrawer(args, device)
    where = device, args.cache, args.spread
    dtype = torch_dtype(args.dtype)
    pipeline = load_pipeline(args.model, args.llm, *where, args.lora, dtype=dtype)
    return LiDiTDrawer(pipeline, Settings("", args.steps, args.cfg, args.size, args.emphasis))
