"""The training loop: what it does with a method, and what it says when it cannot."""

import dataclasses
import json
import re
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from toys import CPU, Toy, close, same, weights

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.methods.base import Pairs
from cmrkit.training.device import pick_device
from cmrkit.training.loop import Loop
from cmrkit.training.momentum import momentum_copy, momentum_update
from cmrkit.training.optimizers import make_optimizer, schedule_factor
from cmrkit.training.rows import Rows, TrainingSet


def history(directory):
    return [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]


def test_the_loss_falls_and_the_history_says_so(pairs, tmp_path):
    Toy(epochs=8).fit_set(pairs, replace(CPU, directory=tmp_path))
    lines = history(tmp_path)
    assert [line["epoch"] for line in lines] == list(range(8))
    assert lines[-1]["step"] == 8 * 4
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["items_per_second"] > 0


def test_a_seed_decides_everything(pairs):
    first, again = (weights(Toy(dropout=0.5, seed=3).fit_set(pairs, CPU)) for _ in range(2))
    assert same(first, again)
    assert not same(first, weights(Toy(dropout=0.5, seed=4).fit_set(pairs, CPU)))


def test_training_leaves_the_callers_random_numbers_alone(pairs):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Toy().fit_set(pairs, CPU)
    assert torch.equal(torch.rand(3), expected)


def test_threads_that_read_ahead_change_nothing(pairs):
    plain = weights(Toy().fit_set(pairs, replace(CPU, workers=0)))
    assert same(plain, weights(Toy().fit_set(pairs, replace(CPU, workers=3))))


def test_rows_read_from_disk_train_as_rows_in_memory(pairs, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", pairs.image)
    mapped = dataclasses.replace(pairs, image=Rows(np.load(tmp_path / "x.npy", mmap_mode="r")))
    monkeypatch.setattr("cmrkit.training.batches.RESIDENT", 0)
    on_disk = Toy().fit_set(mapped, CPU)
    monkeypatch.undo()
    assert same(weights(on_disk), weights(Toy().fit_set(pairs, CPU)))


def test_a_batch_brings_each_text_its_image_and_labels(pairs):
    seen = []

    class Watching(Toy):
        def loss(self, net, batch, loop):
            seen.append(batch)
            return super().loss(net, batch, loop)

    Watching(epochs=1).fit_set(pairs, CPU)
    rows = torch.cat([b.rows for b in seen]).numpy()
    assert sorted(rows) == list(range(60))
    images = torch.cat([b.images for b in seen]).numpy()
    np.testing.assert_array_equal(images, pairs.pairs[rows])
    np.testing.assert_array_equal(torch.cat([b.image for b in seen]).numpy(), pairs.image[images])
    np.testing.assert_array_equal(torch.cat([b.labels for b in seen]).numpy(), pairs.labels[images])


@pytest.mark.parametrize(
    ("stored", "shape", "seen"),
    [(np.float16, (3, 2), torch.float32), (np.int32, (7,), torch.int64), (np.uint8, (4, 4, 3), torch.uint8),
     (np.uint8, (9,), torch.float32)],
)  # fmt: skip
def test_features_ids_and_pixels_reach_the_network_in_their_own_type(stored, shape, seen):
    found = {}

    class Watching(Toy):
        def build(self, spec):
            assert spec.text_shape == shape
            return torch.nn.Linear(2, 1)

        def loss(self, net, batch, loop):
            found["type"], found["shape"] = batch.text.dtype, batch.text.shape[1:]
            return net.weight.sum()

    data = TrainingSet(np.zeros((8, 2), np.float32), np.ones((8, *shape), stored), np.arange(8))
    Watching(epochs=1).fit_set(data, CPU)
    assert found == {"type": seen, "shape": torch.Size(shape)}


def test_accumulated_parts_give_the_step_of_the_whole_batch(pairs):
    whole = weights(Toy().fit_set(pairs, CPU))
    assert close(whole, weights(Toy(accumulate=3).fit_set(pairs, CPU)))


def test_out_of_memory_halves_the_parts_and_keeps_the_batch(pairs, capsys):
    class Small(Toy):
        def loss(self, net, batch, loop):
            if len(batch) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().loss(net, batch, loop)

    found = weights(Small(batch_size=20).fit_set(pairs, CPU))
    told = capsys.readouterr().err
    assert "out of memory at step 0; batches are taken in 2 parts of 10" in told
    assert "in 4 parts of 5 from here, the effective batch stays 20" in told
    assert close(found, weights(Toy(batch_size=20).fit_set(pairs, CPU)))


def test_out_of_memory_at_a_single_pair_is_the_end(pairs):
    class Huge(Toy):
        def loss(self, net, batch, loop):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(CmrkitError, match="out of memory at step 0 with a single pair"):
        Huge().fit_set(pairs, CPU)


def test_a_loss_that_is_not_finite_stops_with_step_and_batch(pairs, tmp_path):
    class Breaking(Toy):
        def loss(self, net, batch, loop):
            return super().loss(net, batch, loop) * (float("nan") if loop.step == 6 else 1)

    with pytest.raises(CmrkitError, match=r"loss is nan at step 6, in epoch 1, batch 2 \(training rows \d+"):
        Breaking().fit_set(pairs, replace(CPU, directory=tmp_path, checkpoint_every=3))
    kept = torch.load(tmp_path / "last.pt", weights_only=True)
    assert kept["step"] == 6
    assert all(v.isfinite().all() for v in kept["net"].values())


def test_clipping_bounds_the_gradient(pairs):
    norms = []

    class Watching(Toy):
        def step(self, net, batch, loop):
            found = super().step(net, batch, loop)
            norms.append(sum((p.grad**2).sum() for p in net.parameters()) ** 0.5)
            return found

    Watching(clip=0.05, epochs=1).fit_set(pairs, CPU)
    assert max(norms) <= 0.05 * (1 + 1e-4)


def test_frozen_parts_wait_for_their_epoch(pairs):
    seen = []

    class Watching(Toy):
        def epoch_end(self, net, loop):
            seen.append(net.text.weight.detach().clone())
            assert net.text.training == (loop.epoch >= 2)

    Watching(frozen=("text:2",), epochs=4).fit_set(pairs, CPU)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    with pytest.raises(UsageError, match="'trunk', which this network does not have; it has image, text"):
        Toy(frozen=("trunk",)).fit_set(pairs, CPU)


def test_two_optimisers_in_turn_each_move_their_own_part(pairs):
    class Adversaries(Toy):
        def optimizers(self, net):
            return {"image": self.make_optimizer(net.image.parameters()),
                    "text": self.make_optimizer(net.text.parameters(), optimizer="SGD", lr=0.0)}  # fmt: skip

        def step(self, net, batch, loop):
            one = loop.descend(batch, lambda part: self.loss(net, part, loop), "image")
            other = loop.descend(batch, lambda part: -self.loss(net, part, loop), "text")
            loop.log_value("gap", one + other)
            return {"loss": one}

        def start(self, net, loop):
            self.before = {k: v.clone() for k, v in net.state_dict().items()}

    method = Adversaries().fit_set(pairs, CPU)
    assert not torch.equal(method.net_.image.weight, method.before["image.weight"])
    assert torch.equal(method.net_.text.weight, method.before["text.weight"])


def test_hooks_see_the_whole_training_set(pairs):
    class Codes(Toy):
        space: ClassVar[str] = "hamming"

        def build(self, spec):
            net = super().build(spec)
            net.register_buffer("image_codes", torch.zeros(spec.n_texts, self.dim))
            net.register_buffer("text_codes", torch.zeros(spec.n_texts, self.dim))
            return net

        def epoch_end(self, net, loop):
            assert net.training
            assert loop.labels.shape == (20, 4)
            net.image_codes.copy_(loop.encode("image")[loop.pairs])
            net.text_codes.copy_(loop.encode("text"))

    method = Codes(dropout=0.5).fit_set(pairs, CPU)
    np.testing.assert_array_equal(method.image_codes_, method.encode_image(pairs.image)[pairs.pairs])
    assert method.text_codes_.dtype == np.int8


def test_steps_end_training_within_an_epoch(pairs, tmp_path):
    Toy(steps=6).fit_set(pairs, replace(CPU, directory=tmp_path))
    assert history(tmp_path)[-1]["step"] == 6


def test_a_method_may_order_its_own_batches(pairs):
    seen = []

    class Backwards(Toy):
        def order(self, loop):
            return torch.arange(59, 9, -1)

        def loss(self, net, batch, loop):
            seen.append(batch.rows.tolist())
            return super().loss(net, batch, loop)

    Backwards(epochs=1, batch_size=20, drop_last=True).fit_set(pairs, CPU)
    assert seen == [list(range(59, 39, -1)), list(range(39, 19, -1))]


def test_a_terminal_sees_epoch_step_loss_speed_and_time_left(pairs, capsys):
    Toy().fit_set(pairs, replace(CPU, progress=True))
    shown = capsys.readouterr().err
    assert re.search(r"\d+/180 \[\d+:\d+<\d+:\d+, .*pair/s, epoch 2, step 12, loss \d", shown)
    Toy().fit_set(pairs, CPU)
    assert capsys.readouterr().err == ""


def test_tensorboard_is_named_where_it_is_missing(pairs, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="needs the package tensorboard"):
        Toy().fit_set(pairs, replace(CPU, tensorboard=tmp_path))


def test_the_best_epoch_by_validation_is_kept_and_patience_ends_training(pairs, tmp_path):
    scores, kept = iter([1.0, 3.0, 2.0, 2.5, 9.0]), []

    def validate(method):
        kept.append(method.state()["net.image.weight"].copy())
        return next(scores)

    method = Toy(epochs=5, patience=2).fit_set(pairs, replace(CPU, directory=tmp_path), validate)
    assert len(kept) == 4, "the fifth epoch is never run"
    np.testing.assert_array_equal(method.state()["net.image.weight"], kept[1])
    assert [line["selection"] for line in history(tmp_path)] == [1.0, 3.0, 2.0, 2.5]


def test_plateau_lowers_the_rate_where_validation_stands_still(pairs, tmp_path):
    method = Toy(epochs=5, schedule="plateau", decay_every=2, gamma=0.5)
    method.fit_set(pairs, replace(CPU, directory=tmp_path), lambda m: 0.0)
    rates = [line["lr"] for line in history(tmp_path)]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.01, 0.005, 0.005])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1, 1]),
        ({"schedule": "step", "decay_every": 1, "gamma": 0.5}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"schedule": "multistep", "milestones": (2,)}, [1, 1, 1, 1, 0.1, 0.1]),
        ({"schedule": "linear"}, [1, 0.8, 0.6, 0.4, 0.2, 0]),
        ({"schedule": "linear", "final_lr": 0.005, "warmup": 0.5}, [0.5, 1, 0.875, 0.75, 0.625, 0.5]),
        ({"schedule": "cosine"}, [1, 0.904508, 0.654508, 0.345492, 0.095492, 0]),
    ],
)
def test_schedules(settings, expected):
    found = [schedule_factor(Toy(**settings), step, 6, 2) for step in range(6)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_any_optimiser_of_torch_by_name():
    parameter = [torch.nn.Parameter(torch.zeros(2))]
    sgd = make_optimizer("SGD", parameter, lr=0.1, momentum=0.9, betas=(0.5, 0.9))
    assert sgd.defaults["momentum"] == 0.9
    with pytest.raises(UsageError, match=r"unknown optimizer 'Adma'; torch\.optim has ASGD"):
        make_optimizer("Adma", parameter, lr=0.1)


def test_bfloat16_trains(pairs):
    half, full = (Toy(precision=p).fit_set(pairs, CPU).encode_image(pairs.image) for p in ("bf16", "fp32"))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.1


def test_a_momentum_encoder_follows_slowly():
    fast = torch.nn.Linear(2, 2)
    slow = momentum_copy(fast)
    before = fast.weight.detach().clone()
    with torch.no_grad():
        fast.weight.add_(1.0)
    momentum_update(slow, fast, 0.9)
    torch.testing.assert_close(slow.weight, before + 0.1)
    assert not any(p.requires_grad for p in slow.parameters())


def test_a_device_that_is_not_there_is_refused():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cuda' was asked for, but torch sees no GPU"):
            pick_device("cuda")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"schedule": "step"}])
def test_settings_that_cannot_be_are_refused(pairs, wrong):
    with pytest.raises(UsageError, match=r"train\."):
        Toy(**wrong).fit_set(pairs, CPU)


def test_a_supervised_method_needs_labels():
    @dataclass(kw_only=True)
    class Supervised(Toy):
        supervised: ClassVar[bool] = True

    with pytest.raises(UsageError, match="Supervised is supervised, but this dataset has no labels"):
        Supervised().fit(Pairs(np.zeros((4, 6)), np.zeros((4, 5))))


def test_what_was_learned_survives_as_plain_arrays(pairs):
    method = Toy().fit_set(pairs, CPU)
    again = Toy().load_state(method.state(), pairs.spec)
    np.testing.assert_array_equal(again.encode_text(pairs.text), method.encode_text(pairs.text))


def test_a_method_not_written_for_several_processes_says_so(pairs, monkeypatch):
    monkeypatch.setattr("cmrkit.training.distributed.size", lambda: 2)
    with pytest.raises(UsageError, match="Toy is not written for several processes"):
        Loop(Toy(), pairs, CPU)
