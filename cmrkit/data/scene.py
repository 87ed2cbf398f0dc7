"""What a scene of the shapes set is made of."""

from __future__ import annotations

from dataclasses import dataclass

SIZE = 64

COLOURS = {
    "red": (210, 40, 40),
    "orange": (235, 130, 30),
    "yellow": (225, 210, 40),
    "green": (50, 160, 60),
    "cyan": (50, 190, 200),
    "blue": (45, 75, 205),
    "purple": (130, 50, 170),
    "pink": (240, 130, 185),
}
FAMILIES = {
    "round": ("circle", "ring"),
    "boxy": ("square", "frame", "diamond"),
    "pointed": ("triangle", "star", "cross"),
}
GROUNDS = {
    "black": (28, 28, 32),
    "grey": (118, 118, 118),
    "white": (222, 222, 218),
    "brown": (112, 80, 56),
    "navy": (36, 44, 84),
}


@dataclass(frozen=True)
class Thing:
    """One shape: ``cell`` is its place on a 3 x 3 grid, read row by row; (y, x) its centre in pixels."""

    kind: str
    colour: str
    radius: int
    cell: int
    y: int
    x: int
    flipped: bool

    @property
    def label(self) -> str:
        """The class that this thing gives its scene."""
        return f"{self.colour} {next(family for family, kinds in FAMILIES.items() if self.kind in kinds)}"


@dataclass(frozen=True)
class Scene:
    """What is drawn: the things that captions speak of, those that they do not, and the background."""

    things: tuple[Thing, ...]
    distractors: tuple[Thing, ...]
    ground: str
    texture: str
    period: int
    slant: int
