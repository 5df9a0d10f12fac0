"""Sections that hold what is hashed and what is not: which keys they have, and what their classes refuse."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from orchestrator.spec.entries import Entry, Hashed, Inline, Place, Runtime, RuntimeConfig, known_keys
from orchestrator.spec.validation import validated
from workloads.configs.base import HashedConfig
from workloads.errors import InputError


class Circle(HashedConfig, tag="test circle"):
    shape: Literal["circle"] = "circle"
    radius: float = Field(1.0, gt=0)


class Box(HashedConfig, tag="test box"):
    shape: Literal["box"] = "box"
    sides: tuple[int, int] = (1, 1)


class Drawing(RuntimeConfig):
    colour: Literal["red", "blue"] = "red"


class Shape(Entry):
    config: Inline[Annotated[Circle | Box, Field(discriminator="shape")]]
    file: Place[str | None] = None
    copies: Hashed[int] = Field(1, ge=1)
    drawing: Drawing | None = None
    names: Runtime[dict[str, int]] = Field(default_factory=dict)


class Sheet(Entry):
    shape: Shape


def refused(shape: object) -> list[tuple[str, str | None]]:
    with pytest.raises(InputError) as caught:
        validated(Sheet, {"shape": shape}, ["title"])
    return [(str(error), error.key) for error in caught.value.each]


def test_what_is_inline_is_written_beside_the_section_s_own_keys() -> None:
    assert validated(Shape, {"shape": "box", "sides": [2, 3], "copies": 4}).config == Box(sides=(2, 3))
    assert known_keys(Sheet) == [
        "shape",
        *(f"shape.{key}" for key in ("shape", "radius", "sides", "file", "copies", "drawing")),
        "shape.drawing.colour",
        "shape.names",
    ]


@pytest.mark.parametrize(
    ("shape", "said", "key"),
    [
        ({"shape": "box", "sides": [1, "x"]}, "shape.sides.1: 'x' is not allowed; input should be", "shape.sides.1"),
        ({"shape": "circle", "radius": 0}, "shape.radius: 0 is not allowed; input should be", "shape.radius"),
        ({"shape": "circle", "sides": [1, 1]}, "shape.sides: [1, 1] is not allowed; circle has no", "shape.sides"),
        ({"shape": "circle", "radios": 2}, "unknown key shape.radios; did you mean shape.radius?", "shape.radios"),
        ({"shape": "circle", "config": {}}, "unknown key shape.config", "shape.config"),
        ({"shape": "circle", "copies": 0}, "shape.copies: 0 is not allowed; input should be", "shape.copies"),
        ({"shape": "disc"}, "shape.shape: 'disc' is not known; allowed: 'circle', 'box'", "shape.shape"),
        ({"shape": "box", "names": {"a": "b"}}, "shape.names.a: 'b' is not allowed; input should", "shape.names.a"),
        (
            {"shape": "box", "drawing": 3},
            "shape.drawing: 3 is not allowed; give a mapping of keys: colour",
            "shape.drawing",
        ),
        (7, "shape: 7 is not allowed; give a mapping of keys: shape, radius, sides, file", "shape"),
    ],
    ids=str,
)
def test_an_error_names_the_key_as_it_is_written(shape: object, said: str, key: str) -> None:
    ((text, named),) = refused(shape)
    assert text.startswith(said)
    assert named == key


def test_all_errors_come_at_once() -> None:
    assert [key for _, key in refused({"shape": "circle", "radius": 0, "copies": 0, "tilte": 1})] == [
        "shape.radius",
        "shape.tilte",
        "shape.copies",
    ]


def test_a_field_that_does_not_say_whether_it_is_hashed_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Unsaid\.size does not say by its type whether it decides a result"):

        class Unsaid(Entry):
            size: int = 3


def test_what_is_hashed_holds_nothing_that_is_not() -> None:
    with pytest.raises(TypeError, match=r"Leaky\.drawing: only what is hashed"):

        class Leaky(HashedConfig, tag="test leaky"):
            drawing: Drawing | None = None
