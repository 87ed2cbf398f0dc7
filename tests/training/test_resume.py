"""A training killed at any moment continues, and ends as if nothing had happened, bit for bit."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from toys import CPU, Toy, same, weights

import cmrkit
from cmrkit.errors import CmrkitError
from cmrkit.training import checkpoint
from cmrkit.training.loop import Loop

STORMY = {"dropout": 0.4, "optimizer": "SGD", "momentum": 0.9, "schedule": "plateau", "decay_every": 1, "epochs": 5}


def interrupted_at(step, pairs, options, **settings):
    class Interrupted(Toy):
        def loss(self, net, batch, loop):
            if loop.step == step:
                raise KeyboardInterrupt
            return super().loss(net, batch, loop)

    with pytest.raises(KeyboardInterrupt):
        Interrupted(**settings).fit_set(pairs, options)


@pytest.mark.parametrize("step", [2, 6, 8, 13])
def test_continues_bit_for_bit_within_an_epoch_and_between_two(step, pairs, tmp_path, capsys):
    options = replace(CPU, directory=tmp_path, checkpoint_every=2)
    interrupted_at(step, pairs, options, **STORMY)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == step - step % 2
    capsys.readouterr()
    resumed = weights(Toy(**STORMY).fit_set(pairs, options))
    assert f"continued from step {step - step % 2} of 20" in capsys.readouterr().err
    assert same(resumed, weights(Toy(**STORMY).fit_set(pairs, CPU)))
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20]


def test_the_end_of_the_last_epoch_is_made_up_for(pairs, tmp_path):
    class Ending(Toy):
        interrupt = False

        def epoch_end(self, net, loop):
            if self.interrupt and loop.epoch == 2:
                raise KeyboardInterrupt
            with torch.no_grad():
                net.bank += 1

    options = replace(CPU, directory=tmp_path, checkpoint_every=1)
    interrupted = Ending()
    interrupted.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit_set(pairs, options)
    assert same(weights(Ending().fit_set(pairs, options)), weights(Ending().fit_set(pairs, CPU)))


def test_the_best_network_survives_an_interruption(pairs, tmp_path):
    class Counting(Toy):
        def build(self, spec):
            net = super().build(spec)
            net.register_buffer("epochs", torch.zeros(()))
            return net

        def epoch_end(self, net, loop):
            net.epochs += 1

    def best_is_second(method):
        return -abs(float(method.net_.epochs) - 2)

    options = replace(CPU, directory=tmp_path, checkpoint_every=1)
    whole = weights(Counting(epochs=4).fit_set(pairs, CPU, best_is_second))

    class Interrupted(Counting):
        def loss(self, net, batch, loop):
            if loop.step == 14:
                raise KeyboardInterrupt
            return super().loss(net, batch, loop)

    with pytest.raises(KeyboardInterrupt):
        Interrupted(epochs=4).fit_set(pairs, options, best_is_second)
    resumed = weights(Counting(epochs=4).fit_set(pairs, options, best_is_second))
    assert resumed["net.epochs"] == 2
    assert same(resumed, whole)


def test_a_working_checkpoint_is_whole_or_absent(pairs, tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "last.pt", {"step": 1})
    monkeypatch.setattr(torch, "save", lambda content, file: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        checkpoint.save(tmp_path / "last.pt", {"step": 2})
    assert checkpoint.load(tmp_path / "last.pt") == {"step": 1}


def test_a_damaged_working_checkpoint_is_named_and_runs_no_code(pairs, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CmrkitError, match=r"last\.pt: damaged checkpoint"):
        Toy().fit_set(pairs, replace(CPU, directory=tmp_path))
    torch.save({"step": print}, tmp_path / "last.pt")
    with pytest.raises(CmrkitError, match="damaged checkpoint"):
        Loop(Toy(), pairs, replace(CPU, directory=tmp_path)).run()


STOP_AT_18 = """
import sys, time
from cmrkit.cli.main import main
from cmrkit.training.loop import Loop
after = Loop._after_step
def slow(self, *args):
    after(self, *args)
    if self.step == 18:
        print("in the middle", flush=True)
        time.sleep(60)
Loop._after_step = slow
main(sys.argv[1:])
"""


WITHOUT_TORCH = """
import sys
from cmrkit.cli.main import _guarded
assert _guarded(sys.argv[1:], debug=True) == 0
print("torch!" if "torch" in sys.modules else "no torch")
"""


def checkpoint_digest(document):
    path = document["runs"][0]["checkpoint"]
    with open(f"{path}/history.jsonl", encoding="utf-8") as file:
        assert [json.loads(line)["step"] for line in file] == [13, 26, 39]
    with open(f"{path}/model.safetensors", "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def test_killed_in_the_middle_of_an_epoch_reproduce_ends_bit_for_bit_the_same(tmp_path, monkeypatch, capsys):
    args = ["reproduce", "dscmr", "--dataset", "digits", "--seed", "0", "--set", "train.epochs=3", "--device", "cpu"]
    args += ["--checkpoint-every", "5", "--json"]
    env = {**os.environ, "CMRKIT_CACHE": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", STOP_AT_18, *args], stdout=subprocess.PIPE, env=env, text=True)
    assert process.stdout.readline().strip() == "in the middle"
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = {"env": env, "capture_output": True, "text": True, "check": True}
    again = subprocess.run([sys.executable, "-m", "cmrkit", *args], **run)
    assert "continued from step 15 of 39" in again.stderr
    assert not any((tmp_path / "partial").iterdir())
    cached = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *args], **run)
    assert cached.stdout.endswith("no torch\n")
    monkeypatch.setenv("CMRKIT_DEVICE", "cpu")
    whole = cmrkit.reproduce("dscmr", "digits", seeds=[0], overrides={"train.epochs": 3}, cache=tmp_path / "whole")
    assert capsys.readouterr().err == "", "quiet where nobody watches"
    assert checkpoint_digest(json.loads(again.stdout)) == checkpoint_digest(whole)
    assert json.loads(again.stdout)["runs"][0]["metrics"] == whole["runs"][0]["metrics"]
