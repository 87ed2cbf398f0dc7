"""Five sentences about a scene of shapes, each telling another part of it in words of its own."""

from __future__ import annotations

from collections.abc import Sequence

from cmrkit.data.draws import Draws
from cmrkit.data.scene import Scene, Thing

COLOUR_WORDS = {
    "red": ("red", "red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "amber", "tangerine"),
    "yellow": ("yellow", "yellow", "golden", "lemon"),
    "green": ("green", "green", "emerald", "leafy"),
    "cyan": ("cyan", "cyan", "turquoise", "aqua"),
    "blue": ("blue", "blue", "azure", "cobalt"),
    "purple": ("purple", "purple", "violet", "plum"),
    "pink": ("pink", "pink", "rosy", "salmon"),
}
KIND_WORDS = {
    "circle": ("circle", "circle", "disc", "ball"),
    "ring": ("ring", "ring", "hoop", "loop"),
    "square": ("square", "square", "box", "block"),
    "frame": ("frame", "frame", "window", "hollow square"),
    "diamond": ("diamond", "diamond", "rhombus", "lozenge"),
    "triangle": ("triangle", "triangle", "wedge", "pyramid"),
    "star": ("star", "star", "hexagram", "six-pointed star"),
    "cross": ("cross", "cross", "plus sign", "plus"),
}
SIZE_WORDS = {7: ("small", "little", "tiny"), 9: ("", "medium"), 11: ("big", "large", "huge")}
PLACES = (
    "in the upper left",
    "at the top",
    "in the upper right",
    "on the left",
    "in the middle",
    "on the right",
    "in the lower left",
    "at the bottom",
    "in the lower right",
)
RELATIONS = {
    "left": ("is to the left of", "stands left of", "sits on the left side of"),
    "right": ("is to the right of", "stands right of", "sits on the right side of"),
    "above": ("is above", "hangs over", "sits higher than"),
    "below": ("is below", "lies under", "sits lower than"),
}
NUMBERS = {2: "two", 3: "three"}
GROUPS = {2: ("two", "a pair of", "a couple of"), 3: ("three", "a trio of", "a group of three")}


def describe(scene: Scene, draws: Draws) -> list[str]:
    """Return the five captions of ``scene``."""
    tellers = (_everything, _relation, _colours, _kinds, _one)
    return [" ".join(teller(scene, draws).split()) for teller in tellers]


def _everything(scene: Scene, draws: Draws) -> str:
    things = _listed([_noun(thing, draws) for thing in draws.some(scene.things, len(scene.things))])
    return draws.pick(
        (
            f"{things} {_ground(scene, draws)}",
            f"there are {NUMBERS[len(scene.things)]} shapes, {things}",
            f"a picture of {things}",
            f"{things} can be seen {_ground(scene, draws)}",
        )
    )


def _relation(scene: Scene, draws: Draws) -> str:
    first, second = draws.some(scene.things, 2)
    relation = draws.pick(RELATIONS[_direction(first, second)])
    return f"{_noun(first, draws)} {relation} {_noun(second, draws)}"


def _colours(scene: Scene, draws: Draws) -> str:
    colours = _listed([_colour(thing, draws) for thing in draws.some(scene.things, len(scene.things))])
    return draws.pick(
        (
            f"{draws.pick(GROUPS[len(scene.things)])} shapes in {colours}",
            f"{colours} shapes {_ground(scene, draws)}",
            f"a drawing with {colours} in it",
        )
    )


def _kinds(scene: Scene, draws: Draws) -> str:
    first, *others = draws.some(scene.things, len(scene.things))
    nouns = [_noun(first, draws), *(_with_article(draws.pick(KIND_WORDS[thing.kind])) for thing in others)]
    return draws.pick(
        (
            f"{_listed(nouns)} {_ground(scene, draws)}",
            f"the drawing shows {_listed(nouns)}",
            f"{NUMBERS[len(nouns)]} shapes, namely {_listed(nouns)}",
        )
    )


def _one(scene: Scene, draws: Draws) -> str:
    thing = draws.pick(scene.things)
    return draws.pick(
        (
            f"{_noun(thing, draws)} {PLACES[thing.cell]}",
            f"{PLACES[thing.cell]} there is {_noun(thing, draws)}",
            f"{_noun(thing, draws)} among other shapes {_ground(scene, draws)}",
        )
    )


def _noun(thing: Thing, draws: Draws) -> str:
    size = draws.pick(SIZE_WORDS[thing.radius]) if draws.below(2) else ""
    return _with_article(f"{size} {_colour(thing, draws)} {draws.pick(KIND_WORDS[thing.kind])}".strip())


def _colour(thing: Thing, draws: Draws) -> str:
    return draws.pick(COLOUR_WORDS[thing.colour])


def _ground(scene: Scene, draws: Draws) -> str:
    preposition = draws.pick(("on", "against"))
    return f"{preposition} {_with_article(f'{scene.texture} {scene.ground}')} background"


def _direction(first: Thing, second: Thing) -> str:
    down, across = first.y - second.y, first.x - second.x
    if abs(across) >= abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]])
