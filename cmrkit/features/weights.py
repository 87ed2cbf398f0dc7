"""Weights from files, held against the network they are meant for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmrkit.errors import CmrkitError, UsageError

if TYPE_CHECKING:
    import torch


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a .safetensors file, or of a PyTorch file without running what it contains.

    Raises CmrkitError naming the file where it holds no tensors by name.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except Exception as error:  # both loaders raise their own and many other kinds on damaged files
        raise CmrkitError(f"{path}: cannot be read as weights: {str(error).splitlines()[0]}") from error
    for wrapper in ("state_dict", "model"):
        content = content.get(wrapper, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CmrkitError(f"{path}: holds no tensors by name")
    return content


def set_weights(net: torch.nn.Module, weights: Mapping[str, torch.Tensor], what: str, unused: Sequence[str]) -> None:
    """Load ``weights`` into ``net``; whatever lies below a prefix in ``unused``, such as a classifier, is ignored.

    ``what`` names the network and the file. Raises CmrkitError naming the first tensors that do not fit.
    """
    wanted = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in weights]
    extra = [
        name
        for name in weights
        if name not in wanted
        and not name.endswith("num_batches_tracked")
        and not any(name == prefix or name.startswith(f"{prefix}.") for prefix in unused)
    ]
    shaped = [name for name in wanted if name in weights and weights[name].shape != wanted[name].shape]
    faults = []
    if missing:
        faults.append(f"{missing[0]} is missing ({len(missing)} of {len(wanted)} are)")
    if extra:
        faults.append(f"{extra[0]} is not of this network ({len(extra)} of {len(weights)} are not)")
    if shaped:
        have, want = list(weights[shaped[0]].shape), list(wanted[shaped[0]].shape)
        faults.append(f"{shaped[0]} is {have} instead of {want} ({len(shaped)} such tensors)")
    if faults:
        raise CmrkitError(f"{what}: these are not its weights: {'; '.join(faults)}")
    net.load_state_dict({name: weights[name] for name in wanted}, strict=False)
