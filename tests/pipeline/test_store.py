"""The store publishes whole artifacts or none, and notices damage."""

import errno
import multiprocessing
import os

import pytest

from cmrkit.errors import CmrkitError
from cmrkit.pipeline.store import Store

KEY = "ab" * 32


def write_hello(out):
    (out / "hello.txt").write_text("hello")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def test_publishes_and_finds(store):
    assert store.find("train", KEY) is None
    artifact = store.publish("train", KEY, {"params": {"a": 1}}, write_hello)
    assert store.find("train", KEY).manifest["params"] == {"a": 1}
    assert artifact.faults() == []
    assert artifact.size == 5


def test_notices_every_kind_of_damage(store):
    for damage, word in (
        (lambda p: p.write_text("hallo"), "differs"),
        (lambda p: p.write_text("h"), "bytes"),
        (lambda p: p.unlink(), "missing"),
    ):
        artifact = store.publish("train", KEY, {}, write_hello)
        damage(artifact.path / "hello.txt")
        assert word in store.find("train", KEY).faults()[0]
    (artifact.path / "artifact.json").write_text("{")
    assert "unreadable" in store.find("train", KEY).faults()[0]


def test_a_failing_writer_leaves_nothing(store):
    def fail(out):
        write_hello(out)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.publish("train", KEY, {}, fail)
    assert store.find("train", KEY) is None
    assert not list((store.root / "staging").iterdir())


def test_a_full_disk_is_said_plainly(store):
    def full(out):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CmrkitError, match="no space left"):
        store.publish("train", KEY, {}, full)
    assert store.find("train", KEY) is None


def test_a_cache_that_cannot_be_written_is_said_plainly(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CmrkitError, match="CMRKIT_CACHE"):
        Store(tmp_path / "file")


def test_collects_leftovers_and_old_artifacts_but_not_pinned_ones(store):
    (store.root / "staging" / "train-abc-999999999").mkdir()
    old, kept = "11" * 32, "22" * 32
    for key in (old, kept, KEY):
        store.publish("train", key, {}, write_hello)
    for key in (old, kept):
        os.utime(store.root / "artifacts" / "train" / key, (0, 0))
    store.pin(kept[:8])
    assert [a.path.name for a in store.collect(30)] == [old]
    assert [a.path.name for a in store.artifacts()] == [kept, KEY]
    assert not list((store.root / "staging").iterdir())


def _count_under_lock(root, path):
    store = Store(root)
    for _ in range(50):
        with store.lock(KEY):
            path.write_text(str(int(path.read_text()) + 1))


def test_the_lock_excludes_other_processes(store, tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count_under_lock, args=(store.root, counter)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert counter.read_text() == "150"


def test_a_disk_that_really_fills_is_said_plainly_and_nothing_is_left(tmp_path):
    import subprocess

    import numpy as np

    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        store = Store(tmp_path / "cache")
        with pytest.raises(CmrkitError, match="no space left"):
            store.publish("prepare", KEY, {}, lambda out: np.save(out / "big.npy", np.zeros(1 << 18)))
        assert store.find("prepare", KEY) is None
        assert not list((store.root / "staging").iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)
