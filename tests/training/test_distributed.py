"""Two processes on this machine train what one would have trained on the same batches."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from toys import CPU, Toy, close, sixty_pairs, weights

import cmrkit
from cmrkit.training.loop import Loop


@dataclass(kw_only=True)
class Local(Toy):
    """A mean over the pairs at hand, nothing gathered; 60 pairs in batches of 17 leave 9, so shares differ."""

    data_parallel: ClassVar[bool] = True
    batch_size: int = 17

    def loss(self, net, batch, loop):
        return ((net.image(batch.image) - net.text(batch.text)) ** 2).sum(1).mean()


@dataclass(kw_only=True)
class Summed(Local):
    """The same, summed."""

    reduction: ClassVar[str] = "sum"
    optimizer: str = "SGD"
    lr: float = 1e-3

    def loss(self, net, batch, loop):
        return super().loss(net, batch, loop) * len(batch)


@dataclass(kw_only=True)
class Contrastive(Local):
    """InfoNCE against every text of the batch, wherever it lies; keeps a bank.

    The text bias has no gradient but rounding, which Adam would blow up; plain descent does not.
    """

    optimizer: str = "SGD"
    lr: float = 0.05

    def loss(self, net, batch, loop):
        u, v = loop.gather(net.image(batch.image)), loop.gather(net.text(batch.text))
        with torch.no_grad():
            net.bank[loop.gather(batch.rows)] = u
        return torch.nn.functional.cross_entropy(u @ v.T, torch.arange(len(u)))


METHODS = {"local": Local, "summed": Summed, "contrastive": Contrastive}


def train_all(data):
    return {name: weights(kind().adopt(Loop(kind(), data, CPU).run(), data.spec)) for name, kind in METHODS.items()}


def _one_of_two(rank, port, data, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, state in train_all(data).items():
        np.savez(f"{folder}/{name}-{rank}.npz", **state)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("two")
    data = sixty_pairs()
    torch.multiprocessing.spawn(_one_of_two, (port, data, str(folder)), nprocs=2)
    return data, {p.stem: dict(np.load(p)) for p in folder.glob("*.npz")}


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_give_the_result_of_one(name, trained_by_two):
    data, found = trained_by_two
    assert close(found[f"{name}-0"], found[f"{name}-1"], atol=0)
    assert close(found[f"{name}-0"], train_all(data)[name], atol=1e-5)


def test_reproduce_by_two_processes_gives_the_network_of_one(tmp_path, monkeypatch):
    args = ["reproduce", "dscmr", "--dataset", "digits", "--seed", "0", "--set", "train.epochs=1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "cmrkit", *args, "--device", "cpu", "--gpus", "2"],
        env={**os.environ, "CMRKIT_CACHE": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    monkeypatch.setenv("CMRKIT_DEVICE", "cpu")
    one = cmrkit.reproduce("dscmr", "digits", seeds=[0], overrides={"train.epochs": 1}, cache=tmp_path / "one")
    paths = [d["runs"][0]["checkpoint"] + "/model.safetensors" for d in (json.loads(done.stdout), one)]
    assert close(*map(load_file, paths), atol=1e-5)
