"""Small methods and small data for the loop."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from cmrkit.methods.deep import DeepEmbedder
from cmrkit.training.options import Options
from cmrkit.training.rows import TrainingSet

CPU = Options(device="cpu")


class Two(nn.Module):
    """One layer per modality, dropout, and a bank over the training set."""

    def __init__(self, spec, dim, dropout):
        super().__init__()
        self.image = nn.Linear(spec.image_shape[0], dim)
        self.text = nn.Linear(spec.text_shape[0], dim)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("bank", torch.zeros(spec.n_texts, dim))


@dataclass(kw_only=True)
class Toy(DeepEmbedder):
    """Draws the two embeddings of a pair together, and away from zero."""

    space: ClassVar[str] = "cosine"

    dim: int = 4
    dropout: float = 0.0
    epochs: int = 3
    batch_size: int = 16
    lr: float = 0.01

    def build(self, spec):
        return Two(spec, self.dim, self.dropout)

    def embed_image(self, net, x):
        return net.image(x)

    def embed_text(self, net, y):
        return net.text(y)

    def loss(self, net, batch, loop):
        u, v = net.dropout(net.image(batch.image)), net.dropout(net.text(batch.text))
        with torch.no_grad():
            net.bank[batch.rows] = 0.5 * net.bank[batch.rows] + u
        return ((u - v) ** 2).sum(1).mean() + ((u.norm(dim=1) - 1) ** 2).mean()


def sixty_pairs():
    """60 texts of 20 images, three each."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(20, 6)).astype(np.float32), rng.normal(size=(60, 5)).astype(np.float32)
    return TrainingSet(image, text, np.repeat(np.arange(20), 3), np.eye(4, dtype=np.uint8)[np.arange(20) % 4])


def weights(method):
    return method.state()


def same(a, b):
    return all(np.array_equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


def close(a, b, atol=1e-6):
    return all(np.allclose(a[k], b[k], atol=atol) for k in a) and a.keys() == b.keys()
