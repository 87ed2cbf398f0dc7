"""The one training loop of deep methods: what every paper's training has in common, and nothing of any paper."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.training import checkpoint, distributed
from cmrkit.training.batches import Batch, Feed
from cmrkit.training.device import pick_device
from cmrkit.training.embedding import embed
from cmrkit.training.log import Log
from cmrkit.training.optimizers import frozen_modules, schedule_factor
from cmrkit.training.options import Options
from cmrkit.training.rows import TrainingSet

LINE_EVERY = 200  # steps between lines of the history within an epoch
CHECK_EVERY = 20  # steps between looks at the loss where a look makes the accelerator wait
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Loop:
    """One training of ``method`` on ``data``; ``run`` returns the trained network.

    A method sees: ``train`` (the TrainingSet), ``labels`` (n_images, c) float32 and ``pairs`` (n_texts,) int64 on
    ``device``, ``spec``, ``net``, ``optimizers`` by name, ``epoch`` and ``step`` (both from 0), ``steps`` and
    ``steps_per_epoch``, ``generator`` (that of the order), and ``state``, a dict of tensors and numbers that is
    saved with the checkpoint. ``validate`` scores the method, larger for better, after every epoch. ``initial`` are
    tensors that the network starts from, under its own names.
    """

    def __init__(
        self,
        method: Any,
        data: TrainingSet,
        options: Options,
        validate: Callable[[Any], float] | None = None,
        initial: dict[str, Tensor] | None = None,
    ):
        self.method, self.train, self.options, self.validate = method, data, options, validate
        self.spec, self.initial = data.spec, initial
        _check_settings(method)
        self.device = distributed.join(pick_device(options.device))
        if distributed.size() > 1 and not method.data_parallel:
            raise UsageError(f"{type(method).__name__} is not written for several processes: run it in one")
        self.epoch = self.step = self.position = 0
        self.state: dict[str, Any] = {}
        self.order: Tensor | None = None
        self.parts = method.accumulate
        self.best, self.stale, self.plateau, self.stopped = -math.inf, 0, 1.0, False
        self._pending: list[tuple[int, Tensor, Tensor]] = []
        self._reported: dict[str, Any] = {}
        self._gathered = False

    def run(self) -> nn.Module:
        """Train from where the working checkpoint left off, or from the start, and return the network.

        Raises CmrkitError where the loss is not finite, UsageError where the settings do not fit the data.
        """
        cuda = [self.device] if self.device.type == "cuda" else []
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(cuda))
            directory = self.options.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            directory.mkdir(parents=True, exist_ok=True)
            self.directory = directory
            self._set_up()
            stack.callback(self.log.close)
            # A training continued from the last step of its last epoch still has the end of that epoch to do.
            while self.order is not None or not self._is_over():
                self._run_epoch()
            return self._finished()

    # -- what methods call

    def descend(self, batch: Batch, loss: Callable[[Batch], Tensor], optimizer: str = "main") -> Tensor:
        """Take one step of ``optimizer`` down ``loss`` of ``batch``, and return the loss (detached).

        Gradient accumulation, mixed precision, clipping and several processes happen in here. Where memory runs
        out, the batch is halved into parts whose gradients add up to those of the whole.
        """
        chosen = self.optimizers[optimizer]
        parameters = [p for group in chosen.param_groups for p in group["params"]]
        while True:
            try:
                chosen.zero_grad(set_to_none=True)
                value = self._backward(batch, loss)
                break
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._halve(len(batch))
        self.scaler.unscale_(chosen)
        distributed.average_gradients(parameters)
        if self.method.clip:
            nn.utils.clip_grad_norm_(parameters, self.method.clip)
        self.scaler.step(chosen)
        self.scaler.update()
        return value

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows of ``x`` of the whole batch, from all processes, with gradients.

        A loss over pairs of a batch gathers everything it looks at, and is then the same on every process.
        """
        self._gathered = True
        return distributed.gather(x)

    def log_value(self, name: str, value: Tensor | float) -> None:
        """Report a number of this step beside its loss; the history holds its mean."""
        self._reported[name] = value

    def batch(self, rows: Tensor) -> Batch:
        """Return the training pairs of some rows (b,) int64 on the CPU, whatever the order of the epoch."""
        return self.feed.batch(rows)

    def encode(self, modality: str) -> Any:
        """Return what ``method.embed_image`` or ``embed_text`` gives for all training rows, in evaluation mode."""
        function = getattr(self.method, f"embed_{modality}")
        count = self.spec.n_images if modality == "image" else self.spec.n_texts
        return embed(self.net, function, lambda a, b: self.feed.rows(modality, a, b), count)

    def autocast(self) -> Any:
        """Return the context of the method's precision."""
        kind = PRECISIONS.get(self.method.precision)
        return torch.autocast(self.device.type, kind) if kind else contextlib.nullcontext()

    def set_lr(self, lr: float, optimizer: str = "main") -> None:
        """Set the rate that the schedule multiplies, for every group of ``optimizer``."""
        for group in self.optimizers[optimizer].param_groups:
            group["initial_lr"] = lr

    # -- the course of a training

    def _set_up(self) -> None:
        method = self.method
        self.generator = torch.Generator().manual_seed(method.seed)
        torch.manual_seed(method.seed)
        self.feed = Feed(self.train, self.device, self.options.workers)
        self.labels, self.pairs = self.feed.labels, self.feed.pairs.to(self.device)
        self.net = method.build(self.spec).to(self.device)
        if distributed.size() > 1 and self.device.type == "cuda":
            self.net = nn.SyncBatchNorm.convert_sync_batchnorm(self.net)
        self.optimizers = method.optimizers(self.net)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        fp16 = method.precision == "fp16" and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        count = self.spec.n_texts
        self.steps_per_epoch = max(
            count // method.batch_size if method.drop_last else -(-count // method.batch_size), 1
        )
        self.steps = method.steps or method.epochs * self.steps_per_epoch
        items = method.steps * method.batch_size or method.epochs * count
        self.log = Log(self.directory, self.options, items, quiet=distributed.rank() > 0)
        self._saved_at = time.monotonic()
        if not self._resume():
            (self.directory / checkpoint.HISTORY).unlink(missing_ok=True)
            if self.initial is not None:
                checkpoint.fill(self.net, self.initial, f"{self.options.label}: the weights to start from")
            method.start(self.net, self)
            if distributed.rank():
                torch.manual_seed(method.seed + 7919 * distributed.rank())

    def _run_epoch(self) -> None:
        self.feed.start_epoch(self.epoch)
        if self.order is None:
            self._set_modes()
            self.method.epoch_start(self.net, self)
            self.order = self.method.order(self)
        self._set_modes()
        left = self._parts()[self.position :]
        if self.method.steps:
            left = left[: self.steps - self.step]
        for batch in self.feed.batches([distributed.share(rows) for rows in left]):
            self._set_rates()
            self._reported = {}
            metrics = self.method.step(self.net, batch, self)
            self._after_step(batch, {**metrics, **self._reported})
        self._end_epoch()

    def _is_over(self) -> bool:
        if self.method.steps:
            return self.stopped or self.step >= self.method.steps
        return self.stopped or self.epoch >= self.method.epochs

    def _parts(self) -> list[Tensor]:
        parts = list(self.order.split(self.method.batch_size))
        if len(parts) > 1 and len(parts[-1]) < (
            self.method.batch_size if self.method.drop_last else distributed.size()
        ):
            parts.pop()
        return parts

    def _after_step(self, batch: Batch, metrics: dict[str, Any]) -> None:
        loss = metrics.get("loss")
        if isinstance(loss, Tensor):
            self._pending.append((self.step, batch.rows, loss))
            if self.device.type == "cpu" or len(self._pending) >= CHECK_EVERY:
                self._require_finite()
        self.step += 1
        self.position += 1
        self.log.add(metrics, len(batch) * distributed.size())
        if self.step % LINE_EVERY == 0:
            self._require_finite()
            self.log.line(self.epoch, self.step, lr=self._rate())
        if self.options.checkpoint_every and self.step % self.options.checkpoint_every == 0:
            self._save()

    def _end_epoch(self) -> None:
        self._require_finite()
        distributed.align_buffers(self.net)
        self.method.epoch_end(self.net, self)
        more = {"lr": self._rate()}
        if self.validate is not None:
            self.method.adopt(self.net, self.spec)
            more["selection"] = self._judge(distributed.agree(float(self.validate(self.method)), self.device))
        elif self.method.schedule == "plateau" and (losses := self.log.sums.get("loss")) is not None:
            mean = distributed.total(torch.as_tensor(losses)) / self.log.counts["loss"]
            self._judge(-float(mean), keep=False)
        self.log.line(self.epoch, self.step, **more)
        self.epoch, self.position, self.order = self.epoch + 1, 0, None
        if time.monotonic() - self._saved_at >= self.options.checkpoint_seconds:
            self._save()

    def _judge(self, value: float, keep: bool = True) -> float:
        """Keep the best network, lower the rate where the value stands still, stop where it does so for long."""
        if value > self.best:
            self.best, self.stale = value, 0
            if keep and distributed.rank() == 0:
                checkpoint.save(self.directory / checkpoint.BEST, {"net": self.net.state_dict(), "epoch": self.epoch})
        else:
            self.stale += 1
            if self.method.schedule == "plateau" and self.stale % max(self.method.decay_every, 1) == 0:
                self.plateau *= self.method.gamma
            self.stopped = bool(self.method.patience) and self.stale >= self.method.patience
        return value

    def _finished(self) -> nn.Module:
        if self.validate is not None and distributed.rank() == 0:
            self.net.load_state_dict(checkpoint.load(self.directory / checkpoint.BEST, self.device)["net"])
        return self.net.eval()

    # -- parts of a step

    def _backward(self, batch: Batch, loss: Callable[[Batch], Tensor]) -> Tensor:
        parts = batch.split(self.parts)
        whole = torch.zeros((), device=self.device)
        processes = distributed.size()
        for part in parts:
            self._gathered = False
            with self.autocast():
                value = loss(part)
            if self.method.reduction == "sum":
                weight = 1.0 if self._gathered else float(processes)
            elif self._gathered or processes == 1:
                weight = len(part) / len(batch)
            else:
                weight = len(part) * processes / self._global_size(batch)
            self.scaler.scale(value * weight if weight != 1.0 else value).backward()
            whole += value.detach() * weight
        return whole

    def _global_size(self, batch: Batch) -> float:
        """The number of pairs in all processes' parts of this batch."""
        count = torch.tensor([float(len(batch))], device=self.device)
        torch.distributed.all_reduce(count)
        return count.item()

    def _halve(self, size: int) -> None:
        """Take batches in twice as many parts from here. Raises CmrkitError where they are single pairs already."""
        if distributed.size() > 1:
            raise CmrkitError(f"{self.options.label}: out of memory; set train.accumulate to {2 * self.parts}, which"
                              " takes every batch in so many parts") from None  # fmt: skip
        if self.parts >= size:
            raise CmrkitError(f"{self.options.label}: out of memory at step {self.step} with a single pair;"
                              " use a device with more, or a smaller network") from None  # fmt: skip
        self.parts = min(2 * self.parts, size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.log.say(f"{self.options.label}: out of memory at step {self.step}; batches are taken in {self.parts} parts"
                     f" of {-(-size // self.parts)} from here, the effective batch stays {size}"
                     " (terms over pairs of a batch see the pairs of a part)")  # fmt: skip

    def _require_finite(self) -> None:
        """Raise CmrkitError naming the first step since the last look whose loss is not finite."""
        pending, self._pending = self._pending, []
        for step, rows, loss in pending:
            value = loss.item()
            if not math.isfinite(value):
                listed = ", ".join(map(str, rows[:5].tolist()))
                kept = self.directory / checkpoint.LAST
                last = f"; the last good checkpoint is kept ({kept})" if kept.is_file() else ""
                raise CmrkitError(
                    f"{self.options.label}: the loss is {value} at step {step}, in epoch {self.epoch}, batch"
                    f" {step - self.step + self.position} (training rows {listed}, ..){last};"
                    " a smaller train.lr or a train.clip may help"
                )

    def _set_modes(self) -> None:
        """Training mode, but for what is frozen: that neither learns nor moves its statistics."""
        self.net.train()
        held = frozen_modules(self.net, self.method.frozen, self.epoch)
        if self.method.frozen:
            still = {id(p) for module in held for p in module.parameters()}
            for module in frozen_modules(self.net, self.method.frozen, -1):
                for parameter in module.parameters():
                    parameter.requires_grad_(id(parameter) not in still)
        for module in held:
            module.eval()

    def _set_rates(self) -> None:
        factor = self.plateau * schedule_factor(self.method, self.step, self.steps, self.steps_per_epoch)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def _rate(self) -> float:
        return next(iter(self.optimizers.values())).param_groups[0]["lr"]

    # -- the working checkpoint

    def _save(self) -> None:
        self._require_finite()
        self._saved_at = time.monotonic()
        if distributed.rank() > 0:
            return
        content = {
            "net": self.net.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "random": checkpoint.random_state(self.generator, self.device),
            "order": self.order,
            "state": self.state,
            "log": {name: getattr(self.log, name) for name in ("sums", "counts", "lines")},
            **{name: getattr(self, name) for name in _PROGRESS},
        }
        checkpoint.save(self.directory / checkpoint.LAST, content)

    def _resume(self) -> bool:
        saved = checkpoint.load(self.directory / checkpoint.LAST, self.device)
        if saved is None:
            return False
        self.net.load_state_dict(saved["net"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.scaler.load_state_dict(saved["scaler"])
        self.order, self.state = None if saved["order"] is None else saved["order"].cpu(), saved["state"]
        vars(self.log).update(saved["log"])
        for name in _PROGRESS:
            setattr(self, name, saved[name])
        checkpoint.set_random_state(saved["random"], self.generator, self.device)
        if distributed.rank() == 0:
            checkpoint.cut_history(self.directory, self.log.lines)
            self.log.say(f"{self.options.label}: continued from step {self.step} of {self.steps}")
        self.log.bar.update(self.step * self.method.batch_size)
        return True


_PROGRESS = ("epoch", "step", "position", "parts", "best", "stale", "plateau", "stopped")


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error) or (
        "can't allocate memory" in str(error))  # fmt: skip


def _check_settings(method: Any) -> None:
    for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("steps", 0), ("patience", 0)):
        if getattr(method, name) < least:
            raise UsageError(f"train.{name} must be at least {least}, not {getattr(method, name)}")
    if not method.lr > 0:
        raise UsageError(f"train.lr must be above 0, not {method.lr}")
    if method.schedule == "step" and method.decay_every < 1:
        raise UsageError("train.schedule 'step' needs train.decay_every, the epochs between two decays")
