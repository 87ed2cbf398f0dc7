"""Training by several processes that torchrun started: shares of a batch, gathered tensors, averaged gradients.

Gradients are averaged after the backward pass instead of through a wrapper around the network, so that a method
may call any part of its network, and step several optimisers in turn, exactly as in one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cmrkit.training.options import process_count


def join(device: torch.device) -> torch.device:
    """Join the group of processes, where there are several, and return this process's device."""
    if process_count() > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if process_count() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def rank() -> int:
    """Return this process's place, 0 where it runs alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes in the group, 1 where this one runs alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(rows: Tensor) -> Tensor:
    """Return this process's part of a batch; the parts in order of rank are the batch."""
    return rows.tensor_split(size())[rank()]


def gather(x: Tensor) -> Tensor:
    """Return the rows of all processes in order of rank, with gradients; ``x`` itself in a single process.

    The gradient that reaches ``x`` is the sum over processes, so that a loss which every process computes alike
    on the gathered rows has, once averaged over processes, the gradient of the single-process loss.
    """
    return x if size() == 1 else _Gather.apply(x)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        counts = torch.zeros(size(), dtype=torch.long, device=x.device)
        counts[rank()] = len(x)
        dist.all_reduce(counts)
        sizes = counts.tolist()
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.start, ctx.count = sum(sizes[: rank()]), len(x)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.start : ctx.start + ctx.count]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over processes; one message per type of number."""
    if size() == 1:
        return
    by_type: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            by_type.setdefault(parameter.dtype, []).append(parameter)
    for group in by_type.values():
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= size()
        for p, g in zip(group, flat.split([g.numel() for g in grads]), strict=True):
            p.grad = g.view_as(p)


@torch.no_grad()
def align_buffers(net: nn.Module) -> None:
    """Give every process the buffers of the first one."""
    if size() > 1:
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)


def agree(value: float, device: torch.device) -> float:
    """Return the first process's number on every process."""
    if size() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    dist.broadcast(shared, 0)
    return shared.item()


def wait() -> None:
    """Wait until every process has come here."""
    if size() > 1:
        dist.barrier()


def total(value: Tensor) -> Tensor:
    """Return the mean of a scalar over processes, for the log."""
    if size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / size()
