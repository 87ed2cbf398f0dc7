"""The whole path of ``cmrkit reproduce vilt --dataset flickr30k`` against a hub and a file server on loopback.

They serve a tiny model in the hub's own form and twenty photographs in the layout of the real archive; the recipe and
the manifest are cut to that size, everything else is what a user runs.
"""

import io
import json
import os
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

COMMIT = {"model": "a" * 40, "words": "b" * 40}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "green", "blue", "dog", "runs", "two", "men"]

RECIPE = """
paper: {{acronym: ViLT, title: "ViLT, small", venue: none, year: 2021, taxonomy: [vision-language/pre-training]}}
status: runnable
fidelity: code
data: {{flickr30k: {{image: photos, text: captions, split: test-1k}}}}
model: {{name: vilt, size: 64, patch: 32, dim: 32, depth: 2, heads: 4, max_length: 12}}
eval: {{protocol: recall, items: query}}
provenance: {{"model.size, model.patch, model.depth, model.heads, model.max_length": "a test"}}
claims:
  - {{dataset: flickr30k, metric: "r@1", at: {{direction: i2t}}, value: 83.6, source: "the real one's", kind: cited}}
checkpoints:
  flickr30k:
    weights: {{path: vilt/model.safetensors, urls: ["hf://dandelin/tiny/model.safetensors@{model}"], sha256: {sha256}}}
    vocabulary: {{path: bert/vocab.txt, urls: ["hf://google-bert/tiny/vocab.txt@{words}"]}}
"""

DATASET = """
title: Flickr30k, twenty photographs
citation: none
assets:
  images: {{path: flickr30k/flickr30k-images.zip, urls: ["{site}/images.zip"]}}
  test-captions: {{path: flickr30k/flickr30k_test.json, urls: ["{site}/test.json"], sha256: {sha256}}}
features:
  image: {{photos: {{assets: [images], extractor: photos}}}}
  text: {{captions: {{assets: [test-captions], extractor: captions}}}}
default_split: test-1k
splits: {{test-1k: {{assets: [test-captions], counts: {{query: 20, database: 20}}}}}}
"""

# The command line with its recipes elsewhere; a run can be made to stop dead after so many blocks of pairs.
PROGRAM = """
import os, sys
from pathlib import Path
from cmrkit.recipe import library
library.home = lambda: library.Root(Path(os.environ["TREE"]), library.PACKAGE / "methods")
if stop := int(os.environ.get("STOP_AFTER", "0")):
    from cmrkit.evaluation import reranking
    from cmrkit.methods import pairs
    reranking.SAVE_EVERY, score, calls = 0.0, pairs.Scorer._score, []
    def dying(*args):
        calls.append(1)
        if len(calls) > stop:
            os.kill(os.getpid(), 9)
        return score(*args)
    pairs.Scorer._score = dying
if os.environ.get("COUNT"):
    from cmrkit.methods import pairs
    score = pairs.Scorer._score
    def counting(self, net, image_rows, text_rows):
        print(len(image_rows), file=sys.stderr)
        return score(self, net, image_rows, text_rows)
    pairs.Scorer._score = counting
from cmrkit.cli.main import main
main()
"""


def photographs():
    content, rng = io.BytesIO(), np.random.default_rng(0)
    with zipfile.ZipFile(content, "w") as archive:
        for i in range(20):
            image = io.BytesIO()
            size = [(48, 80, 3), (80, 48, 3), (64, 64, 3)][i % 3]
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(image, "JPEG")
            archive.writestr(f"flickr30k-images/{i}.jpg", image.getvalue())
    return content.getvalue()


def captions():
    rng = np.random.default_rng(1)
    return json.dumps([{"split": "test", "image_name": f"{i}.jpg",
                        "captions": [" ".join(rng.choice(WORDS[5:], rng.integers(2, 9))) for _ in range(5)]}
                       for i in range(20)]).encode()  # fmt: skip


def official_model():
    """A tiny model as its authors' library makes it, without pre-training."""
    from transformers import ViltConfig, ViltForImageAndTextRetrieval

    torch.manual_seed(3)
    config = ViltConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        image_size=64, patch_size=32, max_position_embeddings=12, initializer_range=0.2,
    )  # fmt: skip
    return ViltForImageAndTextRetrieval(config).eval()


@pytest.fixture(scope="module")
def model():
    return official_model()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    model.save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    return {
        f"/dandelin/tiny/resolve/{COMMIT['model']}/model.safetensors": (weights, COMMIT["model"]),
        f"/google-bert/tiny/resolve/{COMMIT['words']}/vocab.txt": ("\n".join(WORDS).encode(), COMMIT["words"]),
        "/images.zip": (photographs(), None),
        "/test.json": (captions(), None),
    }


@pytest.fixture(scope="module")
def server(files):
    """Serve ``files``; ``server.asked`` are the paths that were asked for."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            server.asked.append(self.path)
            body, commit = files.get(self.path, (b"", None))
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{digest(body)}"')
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def digest(content):
    import hashlib

    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def vilt(server, files, tmp_path, own_cache):
    """Run ``cmrkit`` in a process of its own, with the hub and the files on loopback."""
    site, tree = f"http://127.0.0.1:{server.server_port}", tmp_path / "tree"
    (tree / "vision_language").mkdir(parents=True)
    (tree / "datasets").mkdir()
    weights, test = (
        next(b for p, (b, _) in files.items() if p.endswith(name)) for name in ("safetensors", "test.json")
    )
    (tree / "vision_language" / "vilt.yaml").write_text(RECIPE.format(**COMMIT, sha256=digest(weights)))
    (tree / "datasets" / "flickr30k.yaml").write_text(DATASET.format(site=site, sha256=digest(test)))

    def run(*args, **env):
        environment = {**os.environ, "TREE": str(tree), "HF_ENDPOINT": site, "HF_HOME": str(tmp_path / "hf"),
                       "CMRKIT_CACHE": str(own_cache), "CMRKIT_MIRROR": "", "OMP_NUM_THREADS": "1", **env}  # fmt: skip
        return subprocess.run([sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, env=environment,
                              check=False)  # fmt: skip

    return run


REPRODUCE = ("reproduce", "vilt", "--dataset", "flickr30k", "--json")


def expected(model, files):
    """Scores of all pairs by the authors' library: each image beside each caption, one pair at a time."""
    from cmrkit.features.captions import CaptionReader
    from cmrkit.features.photos import aspect_size

    archive = zipfile.ZipFile(io.BytesIO(files["/images.zip"][0]))
    described = json.loads(files["/test.json"][0])
    reader = CaptionReader("bert", 12, {"vocab.txt": "\n".join(WORDS).encode()})
    ids = torch.from_numpy(reader(np.array([c.encode() for d in described for c in d["captions"]]))).long()
    scores = np.empty((20, 100), np.float32)
    for i, each in enumerate(described):
        image = Image.open(io.BytesIO(archive.read(f"flickr30k-images/{each['image_name']}")))
        image = image.resize(aspect_size(*image.size, 64), Image.Resampling.BICUBIC)
        pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
        for j, row in enumerate(ids):
            row = row[row != 0][None]
            mask = torch.ones(1, *pixels.shape[2:], dtype=torch.long)
            with torch.no_grad():
                found = model(input_ids=row, attention_mask=torch.ones_like(row), pixel_values=pixels, pixel_mask=mask)
            scores[i, j] = found.logits.item()
    return scores


def test_downloads_converts_evaluates_judges_and_is_cached(vilt, server, model, files, own_cache):
    first = vilt(*REPRODUCE)
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["origin"] == "checkpoint"
    scores = np.load(next(Path(own_cache).glob("artifacts/encode/*/similarity.npy")))
    reference = expected(model, files)
    np.testing.assert_allclose(scores, reference, rtol=0, atol=1e-5)
    from cmrkit.evaluation import evaluate_matrix

    metrics = evaluate_matrix(reference, pairs=np.repeat(np.arange(20), 5), protocol="recall")
    assert document["runs"][0]["metrics"]["r@1"] == metrics["r@1"]
    assert [(c["value"], c["verdict"]) for c in document["claims"]] == [(83.6, "below")]

    server.asked.clear()
    second = vilt(*REPRODUCE, "--offline")
    assert second.returncode == 0, second.stderr
    again = json.loads(second.stdout)
    assert all(step["cached"] for step in again["steps"])
    assert again["runs"][0]["metrics"] == document["runs"][0]["metrics"]
    assert server.asked == []


def test_a_run_killed_among_the_pairs_goes_on_and_ends_in_the_same_bits(vilt, own_cache):
    killed = vilt(*REPRODUCE, STOP_AFTER="5")
    assert killed.returncode == -9
    resumed = vilt(*REPRODUCE, COUNT="1")
    assert resumed.returncode == 0, resumed.stderr
    assert sum(map(int, resumed.stderr.split())) == 2000 - 5 * 256
    scores = next(Path(own_cache).glob("artifacts/encode/*/similarity.npy")).read_bytes()
    whole = vilt(*REPRODUCE, "--force", "encode", COUNT="1")
    assert whole.returncode == 0, whole.stderr
    assert next(Path(own_cache).glob("artifacts/encode/*/similarity.npy")).read_bytes() == scores
    assert not list((Path(own_cache) / "partial").iterdir())


def test_files_that_are_not_there_are_named_with_what_to_do(vilt, files):
    missing = vilt(*REPRODUCE, "--offline")
    assert missing.returncode == 1
    assert "vilt/model.safetensors" in missing.stderr
    plan = json.loads(vilt("plan", "vilt", "--dataset", "flickr30k", "--json").stdout)
    assert [f["name"] for f in plan["files"] if not f["found"]] == ["images", "test-captions", "weights", "vocabulary"]


def test_weights_with_another_digest_are_refused(vilt, files):
    path = next(p for p in files if p.endswith("safetensors"))
    body, commit = files[path]
    files[path] = (body[:-1] + b"x", commit)
    try:
        refused = vilt(*REPRODUCE)
    finally:
        files[path] = (body, commit)
    assert refused.returncode == 1
    assert "sha256" in refused.stderr


def test_a_gated_repository_is_explained(vilt, files):
    path = next(p for p in files if p.endswith("safetensors"))
    body = files.pop(path)
    try:
        refused = vilt(*REPRODUCE)
    finally:
        files[path] = body
    assert refused.returncode == 1
    assert "dandelin/tiny" in refused.stderr
