"""Scenes of coloured shapes with captions and labels, drawn from a seed: a smoke set for every family.

A scene has two or three shapes that captions speak of, and two to four small ones that they do not. The
background has a colour, a texture and noise of its own. Each caption tells a part: all shapes, a relation,
colours without shapes, shapes without colours, or one shape and its place. A label is a colour with a family
of shapes, such as "red round", so that neither colours nor outlines alone give it away.

Everything is integer arithmetic on NumPy's guaranteed raw stream: the bytes are the same everywhere. Numbers
on this set say that something works, never how well it would do on photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmrkit.data import drawing
from cmrkit.data.captions import describe
from cmrkit.data.draws import Draws
from cmrkit.data.scene import COLOURS, FAMILIES, GROUNDS, SIZE, Scene, Thing

SEED = 20260102
SCENES = 2400


@dataclass(frozen=True)
class Shapes:
    """The set: ``images`` uint8 (n, 64, 64, 3), ``captions`` five per image in order, ``labels`` uint8 (n, 24)."""

    images: np.ndarray
    captions: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]


def generate(scenes: int = SCENES, seed: int = SEED) -> Shapes:
    """Return ``scenes`` scenes; the first ones are the same however many are asked for."""
    draws = Draws(seed)
    images = np.empty((scenes, SIZE, SIZE, 3), dtype=np.uint8)
    captions: list[str] = []
    classes = tuple(f"{colour} {family}" for colour in COLOURS for family in FAMILIES)
    labels = np.zeros((scenes, len(classes)), dtype=np.uint8)
    for row in range(scenes):
        scene = compose(draws)
        images[row] = render(scene, draws)
        captions += describe(scene, draws)
        labels[row, [classes.index(thing.label) for thing in scene.things]] = 1
    return Shapes(images, captions, labels, classes)


def compose(draws: Draws) -> Scene:
    """Return a scene: what is where, in which colours, on what background."""
    n_things, n_distractors = draws.pick((2, 2, 3)), draws.between(1, 3)
    cells = draws.some(range(9), n_things + n_distractors)
    colours = draws.some(tuple(COLOURS), n_things)
    kinds = draws.some(drawing.KINDS, n_things)
    things = [
        _place(draws, kind, colour, cell, radius=draws.pick((7, 9, 11)), jitter=2)
        for kind, colour, cell in zip(kinds, colours, cells, strict=False)
    ]
    distractors = [
        _place(draws, draws.pick(drawing.KINDS), draws.pick(tuple(COLOURS)), cell, radius=draws.between(3, 4), jitter=5)
        for cell in cells[n_things:]
    ]
    return Scene(
        things=tuple(things),
        distractors=tuple(distractors),
        ground=draws.pick(tuple(GROUNDS)),
        texture=draws.pick(drawing.TEXTURES),
        period=draws.between(3, 8),
        slant=draws.below(4),
    )


def _place(draws: Draws, kind: str, colour: str, cell: int, radius: int, jitter: int) -> Thing:
    y, x = (11 + 21 * index + draws.between(-jitter, jitter) for index in divmod(cell, 3))
    return Thing(kind, colour, radius, cell, y, x, flipped=bool(draws.below(2)))


def render(scene: Scene, draws: Draws) -> np.ndarray:
    """Return the scene as uint8 (64, 64, 3), with light and noise of its own."""
    pattern = drawing.texture(scene.texture, SIZE, scene.period, scene.slant)
    canvas = np.array(GROUNDS[scene.ground], dtype=np.int16) + pattern[:, :, None]
    for thing in (*scene.distractors, *scene.things):
        tint = tuple(channel + draws.between(-20, 20) for channel in COLOURS[thing.colour])
        drawing.paint(canvas, drawing.mask(thing.kind, thing.radius, thing.flipped), thing.y, thing.x, tint)
    light = draws.between(11, 17)
    noise = (draws.bytes(canvas.size) % 41).astype(np.int16).reshape(canvas.shape) - 20
    return np.clip((canvas * light >> 4) + noise, 0, 255).astype(np.uint8)
