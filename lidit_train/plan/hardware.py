"""Devices that a plan may be made for; figures are the vendor's, what is assumed says so.

NVIDIA's data sheets (H100 and H200: SXM; A100: SXM4 with 80 GB) and architecture white papers
(RTX 4090: AD102, RTX 3090: GA102). The RTX 4070's and 3060's peaks are computed as those papers
compute them: multiprocessors x 128 x 2 x boost clock in float32 (46 at 2.475 GHz; 28 at 1.777), and
twice that in bf16 with float32 sums. Peaks are dense: data sheets that print twice as much mean
structured sparsity. GB are decimal, a little less than the device really has.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import torch

from lidit_core.errors import LiDiTError

THIS_CPU = "this CPU"
SHARE = 0.35  # assumed: of the peak that a step reaches (model FLOPs utilisation)
CPU_SHARE = 0.38  # measured: 0.33 to 0.43 of a large product's speed, over five kinds of training
MATRIX = 1024  # side of the product that a CPU is measured with


@dataclass(frozen=True)
class Device:
    """One device, of which a machine holds up to eight."""

    name: str
    bf16: float  # dense peak with float32 sums, FLOP/s; 0 = computes in float32
    float32: float  # without tensor cores, FLOP/s; 0 = to be measured
    memory: float  # bytes; 0 = the machine's
    bandwidth: float = 0.0  # of its memory, bytes/s
    link: float = 0.0  # to the others of a machine, bytes/s each way
    network: float = 0.0  # to other machines, bytes/s each way; assumed
    share: float = SHARE

    @property
    def is_cpu(self) -> bool:
        return self.name == THIS_CPU

    def peak(self, precision: str) -> float:
        """FLOP/s in the recipe's precision; a CPU computes in float32."""
        return self.bf16 if precision == "bf16" and self.bf16 else self.float32

    def between(self, count: int) -> float:
        """Bytes/s each way that each of so many devices exchanges with the others."""
        return self.link if count <= 8 else self.network


DEVICES = {
    device.name: device
    for device in (
        Device("H200", 989.5e12, 67e12, 141e9, 4.8e12, link=450e9, network=50e9),
        Device("H100", 989.5e12, 67e12, 80e9, 3.35e12, link=450e9, network=50e9),
        Device("A100-80GB", 312e12, 19.5e12, 80e9, 2.039e12, link=300e9, network=25e9),
        Device("RTX 4090", 165.2e12, 82.6e12, 24e9, 1.008e12, link=32e9, network=1.25e9),
        Device("RTX 3090", 71e12, 35.6e12, 24e9, 0.936e12, link=32e9, network=1.25e9),
        Device("RTX 4070", 58.3e12, 29.1e12, 12e9, 0.504e12, link=32e9, network=1.25e9),
        Device("RTX 3060", 25.5e12, 12.7e12, 12e9, 0.36e12, link=32e9, network=1.25e9),
        Device(THIS_CPU, 0.0, 0.0, 0.0, link=1.25e9, network=1.25e9, share=CPU_SHARE),
    )
}


def find_hardware(name: str, seconds: float = 1.0) -> Device:
    """A device by its name; "this CPU" is measured for so many seconds."""
    if name not in DEVICES:
        raise LiDiTError(
            f"the recipe's hardware has device={name!r}; expected one of {', '.join(DEVICES)}"
        )
    device = DEVICES[name]
    if not device.is_cpu:
        return device
    return replace(device, float32=measured_speed(seconds), memory=float(machine_memory()))


def measured_speed(seconds: float = 1.0) -> float:
    """FLOP/s of this process's threads in a float32 product, where nothing else disturbs it."""
    a, b = torch.rand(2, MATRIX, MATRIX)
    out = a @ b
    fastest, began = float("inf"), time.perf_counter()
    while fastest == float("inf") or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * MATRIX**3 / fastest


def machine_memory() -> int:
    """Bytes of this machine's main memory, 0 where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 0
