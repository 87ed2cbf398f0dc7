import io
import json
import zipfile

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cmrkit.recipe import library

METHOD = '''
"""A pair scorer for tests: colours of an image against words of a caption, in the form of a real one."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from cmrkit.methods.deep import PairScorer


@dataclass(kw_only=True)
class ToyPairs(PairScorer):
    """Scores a pair by the product of two vectors."""

    training_only: ClassVar[tuple] = ("queue",)

    size: int = 16
    framing: Literal["squash", "crop", "aspect"] = "squash"
    tokenizer: Literal["bert", "clip"] = "bert"
    max_length: int = 8
    augment: str = ""
    dim: int = 8

    def build(self, spec):
        net = nn.Module()
        net.image, net.words = nn.Linear(3, self.dim), nn.EmbeddingBag(spec.vocabulary, self.dim, padding_idx=0)
        net.register_buffer("queue", torch.zeros(3))
        return net

    def convert(self, weights):
        return {name.removeprefix("official."): value for name, value in weights.items()}

    def embed_image(self, net, x):
        return (normalize(net.image(x[..., :3].float().mean((1, 2)) / 255), dim=1),)

    def embed_text(self, net, y):
        return (normalize(net.words(y), dim=1),)

    def score(self, net, images, texts):
        return 10 * (images[0] * texts[0]).sum(1)

    def loss(self, net, batch, loop):
        similarity = 10 * self.embed_image(net, batch.image)[0] @ self.embed_text(net, batch.text)[0].T
        return cross_entropy(similarity, torch.arange(len(similarity)))
'''

RECIPE = """
paper: {acronym: Toy, title: A toy, venue: None, year: 2026, taxonomy: [vision-language/pre-training]}
status: runnable
fidelity: paper
data: {tiny30k: {image: photos, text: captions, split: test-1k}}
model: {name: toypairs, shortlist: 0}
train: {epochs: 1}
eval: {protocol: recall, items: query}
provenance: {model.shortlist: "guess, a toy", train.epochs: "guess, a toy"}
compute: {minutes: 0.1, gflop_per_pair: 0.001}
checkpoints:
  tiny30k:
    weights: {path: toy/weights.safetensors, urls: ["https://example.org/weights.safetensors"], licence: MIT}
    vocabulary: {path: toy/vocab.txt, urls: ["https://example.org/vocab.txt"]}
"""

DATASET = """
title: Twenty photographs in the layout of Flickr30k
citation: none
reader: flickr30k
assets:
  images: {path: flickr30k/flickr30k-images.zip, urls: ["https://example.org/images.zip"]}
  test-captions: {path: flickr30k/flickr30k_test.json, urls: ["https://example.org/test.json"]}
features:
  image: {photos: {assets: [images], extractor: photos}}
  text: {captions: {assets: [test-captions], extractor: captions}}
default_split: test-1k
splits: {test-1k: {assets: [test-captions], counts: {query: 20, database: 20}}}
"""

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "green", "blue", "grey", "picture", "of", "the", "thing"]
COLOURS = {"red": (220, 30, 30), "green": (20, 200, 40), "blue": (30, 40, 210), "grey": (128, 128, 128)}
IMAGES = 20


@pytest.fixture
def toy_recipe(tmp_path, monkeypatch):
    """A tree of one's own with the recipe ``toypairs`` and the dataset ``tiny30k``."""
    for folder, content, suffix in (("methods", METHOD, "py"), ("recipes", RECIPE, "yaml")):
        place = tmp_path / "tree" / folder / "vision_language"
        place.mkdir(parents=True)
        (place / f"toypairs.{suffix}").write_text(content)
    (tmp_path / "tree" / "recipes" / "datasets").mkdir()
    (tmp_path / "tree" / "recipes" / "datasets" / "tiny30k.yaml").write_text(DATASET)
    monkeypatch.setenv("CMRKIT_PATH", str(tmp_path / "tree"))
    library.roots.cache_clear()
    library._recipe_files.cache_clear()
    yield "toypairs"
    library.roots.cache_clear()
    library._recipe_files.cache_clear()


def jpeg(colour, size=(30, 20)):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "JPEG")
    return content.getvalue()


def toy_weights(dim=8):
    """Weights under which a caption's colour word points where images of that colour do."""
    directions = torch.eye(3, dim)
    words = torch.zeros(len(WORDS), dim)
    for name, colour in COLOURS.items():
        words[WORDS.index(name)] = torch.tensor(colour) / 255 @ directions
    return {"official.image.weight": directions.T.contiguous(), "official.image.bias": torch.zeros(dim),
            "official.words.weight": words}  # fmt: skip


@pytest.fixture
def toy_mirror(tmp_path):
    """Twenty photographs, a hundred captions, weights and vocabulary, in the places and forms of the real ones."""
    folder = tmp_path / "mirror"
    (folder / "flickr30k").mkdir(parents=True)
    (folder / "toy").mkdir()
    names = list(COLOURS)
    with zipfile.ZipFile(folder / "flickr30k" / "flickr30k-images.zip", "w") as archive:
        for i in range(IMAGES):
            archive.writestr(f"flickr30k-images/{i}.jpg", jpeg(tuple(c // (1 + i // 8) for c in COLOURS[names[i % 4]])))
    captions = [{"image_name": f"{i}.jpg", "split": "test",
                 "captions": [f"a {names[i % 4]} {w}" for w in ("thing", "picture", "thing of the picture", "", "the")]}
                for i in range(IMAGES)]  # fmt: skip
    (folder / "flickr30k" / "flickr30k_test.json").write_text(json.dumps(captions))
    (folder / "toy" / "vocab.txt").write_text("\n".join(WORDS))
    save_file(toy_weights(), folder / "toy" / "weights.safetensors")
    return folder
