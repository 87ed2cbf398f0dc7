"""Which device a network runs on."""

from __future__ import annotations

import torch

from cmrkit.errors import UsageError


def pick_device(name: str) -> torch.device:
    """Return the device called ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; auto takes the fastest there is.

    Raises UsageError where it is unknown or not there: nothing moves to the CPU unasked.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}: devices are auto, cpu, cuda, cuda:N and mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r} was asked for, but torch sees no GPU here; use --device cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} GPUs, from cuda:0")
    if device.type == "mps" and not _has_mps():
        raise UsageError("device 'mps' was asked for, but this machine has none; use --device cpu or auto")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r} is not supported: devices are auto, cpu, cuda, cuda:N and mps")
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
