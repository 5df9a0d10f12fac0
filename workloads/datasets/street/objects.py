"""What stands and moves in the street: cars, people, lamp posts, traffic signs, trees.

The model: each object is a few polygons in metres at a depth, painted from far to near; cars are boxes with a
visible rear and side. Every picture has at least one car, person, pole, sign and tree at a distance where it
can be seen. The failure this guards against: classes that are absent from most pictures, which would make a
mean over classes a matter of luck.
"""

from collections.abc import Callable

import numpy as np

from workloads.datasets.street.canvas import Canvas, Colour, Point
from workloads.datasets.street.scenery import CAR, PERSON, POLE, SIGN, VEGETATION, Street, varied

_PAINTS: tuple[Colour, ...] = (
    (28, 28, 32),
    (206, 206, 206),
    (128, 130, 134),
    (74, 78, 84),
    (138, 28, 28),
    (32, 54, 108),
    (52, 82, 50),
    (172, 150, 104),
    (96, 116, 86),
    (176, 92, 40),
)
_SKINS: tuple[Colour, ...] = ((214, 172, 146), (176, 128, 98), (120, 82, 60), (84, 58, 44))
_SIGNS: tuple[tuple[Colour, Colour], ...] = (
    ((178, 34, 36), (224, 222, 218)),
    ((38, 78, 158), (220, 222, 226)),
    ((218, 176, 44), (40, 38, 36)),
    ((214, 214, 210), (170, 40, 40)),
    ((40, 104, 70), (216, 218, 214)),
)
_TYRE: Colour = (24, 24, 26)
_SHADOW = 110

Draw = Callable[[], None]


def paint_objects(rng: np.random.Generator, canvas: Canvas, street: Street) -> None:
    """Place and paint all objects of one scene, far ones first."""
    things: list[tuple[float, Draw]] = []

    def place(depth: float, draw: Callable[[Canvas, np.random.Generator, Street, float], None]) -> None:
        things.append((depth, lambda: draw(canvas, rng, street, depth)))

    for depth in _depths(rng, (7, 14), (8, 45), most=6):
        place(depth, _car if rng.random() < 0.85 else _crossing_car)
    for depth in _depths(rng, (6, 11), (7, 35), most=4):
        place(depth, _person)
    for depth in _depths(rng, (8, 14), (10, 45), most=3):
        place(depth, _lamp_post)
    for depth in _depths(rng, (7, 12), (9, 30), most=2):
        place(depth, _traffic_sign)
    for depth in _depths(rng, (10, 22), (12, 60), most=4):
        place(depth, _tree)
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()


def _depths(
    rng: np.random.Generator, first: tuple[float, float], others: tuple[float, float], most: int
) -> list[float]:
    return [rng.uniform(*first), *rng.uniform(*others, rng.integers(0, most))]


def _in_view(canvas: Canvas, depth: float, across: float) -> float:
    """``across`` moved towards the middle until its column is inside the image."""
    camera = canvas.camera
    edge = 0.06 * camera.width
    column, _ = camera.point(across, 0, depth)
    column = min(max(column, edge), camera.width - edge)
    return (column - camera.centre) * depth / camera.focal


def _car(canvas: Canvas, rng: np.random.Generator, street: Street, depth: float) -> None:
    left, right = street.road
    across = [left + 1, right - 1, (left + right) / 2 + rng.uniform(-0.6, 0.6)][rng.choice(3, p=[0.38, 0.38, 0.24])]
    across += rng.uniform(-0.15, 0.3)
    half, length, roof = 0.9 * rng.uniform(0.92, 1.1), rng.uniform(3.6, 4.9), 1.45 * rng.uniform(0.92, 1.3)
    belt = 0.62 * roof
    own = varied(rng, _PAINTS[rng.integers(len(_PAINTS))], 16)
    body = canvas.material(own, CAR, depth)
    flank = canvas.material(_scaled(own, rng.uniform(0.6, 0.95)), CAR, depth)
    glass = canvas.material(varied(rng, (46, 54, 62), 24), CAR, depth)
    tyre = canvas.material(_TYRE, CAR, depth)
    point = canvas.camera.point
    far = depth + length

    wide = half + 0.25
    canvas.ground_shadow(
        [
            point(across - wide, 0, depth - 0.3),
            point(across + wide, 0, depth - 0.3),
            point(across + wide, 0, far),
            point(across - wide, 0, far),
        ],
        int(rng.integers(40, 110)),
    )
    face = across - half if across > half else across + half if across < -half else None
    if face is not None:
        inner = face + (0.12 if face < across else -0.12)
        for axle in (depth + 0.2 * length, depth + 0.8 * length):
            hub = point(face, 0.32, axle)
            reach = abs(point(face, 0, axle - 0.34)[0] - point(face, 0, axle + 0.34)[0]) / 2
            canvas.ellipse(hub, max(reach, 0.5), 0.34 * canvas.camera.focal / axle, tyre)
        canvas.polygon(
            [
                point(face, 0.28, depth),
                point(face, belt, depth),
                point(face, belt * 0.96, far),
                point(face, 0.28, far),
            ],
            flank,
        )
        front, back = depth + 0.08 * length, depth + 0.74 * length
        canvas.polygon(
            [
                point(face, belt, depth),
                point(inner, roof, front),
                point(inner, roof, back - 0.5),
                point(face, belt, back),
            ],
            flank,
        )
        canvas.polygon(
            [
                point(face, belt + 0.04, front + 0.1),
                point(inner, roof - 0.1, front + 0.25),
                point(inner, roof - 0.1, back - 0.7),
                point(face, belt + 0.04, back - 0.35),
            ],
            glass,
        )
    for side in (-1, 1):
        outer = across + side * half
        canvas.upright((min(outer, outer - side * 0.24), max(outer, outer - side * 0.24)), (0, 0.4), depth, tyre)
    canvas.upright((across - half, across + half), (0.25, belt), depth, body)
    _trapezoid(canvas, across, half * 0.97, half * 0.72, (belt, roof), depth=depth, material=body)
    _trapezoid(canvas, across, half * 0.86, half * 0.66, (belt + 0.04, roof - 0.1), depth=depth, material=glass)
    lamp_colour: Colour = (168, 30, 30) if rng.random() < 0.6 else (226, 222, 206)
    lamp = canvas.material(varied(rng, lamp_colour, 14), CAR, depth)
    plate = canvas.material((200, 200, 190), CAR, depth)
    canvas.upright((across - half, across - half + 0.26), (belt - 0.3, belt - 0.12), depth, lamp)
    canvas.upright((across + half - 0.26, across + half), (belt - 0.3, belt - 0.12), depth, lamp)
    canvas.upright((across - 0.24, across + 0.24), (0.42, 0.54), depth, plate)
    canvas.upright((across - half, across + half), (0.25, 0.36), depth, canvas.material(_scaled(own, 0.45), CAR, depth))


def _crossing_car(canvas: Canvas, rng: np.random.Generator, street: Street, depth: float) -> None:
    across = rng.uniform(*street.road) - 2
    length, roof = rng.uniform(3.7, 4.8), rng.uniform(1.35, 1.8)
    own = varied(rng, _PAINTS[rng.integers(len(_PAINTS))], 16)
    body = canvas.material(own, CAR, depth)
    glass = canvas.material(varied(rng, (50, 58, 66), 24), CAR, depth)
    tyre = canvas.material(_TYRE, CAR, depth)
    point = canvas.camera.point
    scale = canvas.camera.focal / depth
    corners = [
        point(across, 0, depth - 0.6),
        point(across + length, 0, depth - 0.6),
        point(across + length, 0, depth + 1.5),
        point(across, 0, depth + 1.5),
    ]
    canvas.ground_shadow(corners, _SHADOW)
    canvas.upright((across, across + length), (0.25, 0.85), depth, body)
    cabin = [(0.14, 0.84), (0.26, roof), (0.72, roof), (0.9, 0.84)]
    canvas.polygon([point(across + share * length, up, depth) for share, up in cabin], body)
    panes = [(0.2, 0.86), (0.29, roof - 0.1), (0.7, roof - 0.1), (0.83, 0.86)]
    canvas.polygon([point(across + share * length, up, depth) for share, up in panes], glass)
    canvas.upright((across + 0.47 * length, across + 0.5 * length), (0.85, roof - 0.05), depth, body)
    for share in (0.2, 0.8):
        canvas.ellipse(point(across + share * length, 0.32, depth), 0.33 * scale, 0.33 * scale, tyre)


def _person(canvas: Canvas, rng: np.random.Generator, street: Street, depth: float) -> None:
    side = rng.integers(2)
    on_pavement = street.road[side] + (street.walls[side] - street.road[side]) * rng.random()
    across = _in_view(canvas, depth, on_pavement if rng.random() < 0.75 else rng.uniform(*street.road))
    tall = rng.uniform(1.5, 1.92)
    wide = 0.24 * rng.uniform(0.9, 1.25)
    coat = canvas.material(
        varied(rng, (rng.uniform(20, 215), rng.uniform(20, 215), rng.uniform(20, 215)), 4), PERSON, depth
    )
    trousers = canvas.material(varied(rng, (58, 58, 66), 46), PERSON, depth)
    skin = canvas.material(varied(rng, _SKINS[rng.integers(len(_SKINS))], 14), PERSON, depth)
    hair = canvas.material(varied(rng, (58, 44, 34), 34), PERSON, depth)
    point = canvas.camera.point
    scale = canvas.camera.focal / depth
    hip, shoulder, stride = 0.48 * tall, 0.84 * tall, rng.uniform(0.02, 0.3)
    canvas.ground_shadow(
        [
            point(across - 0.3, 0, depth - 0.2),
            point(across + 0.9, 0, depth - 0.2),
            point(across + 0.9, 0, depth + 0.4),
        ],
        _SHADOW,
    )
    for way in (-1, 1):
        foot = across + way * stride
        canvas.polygon(
            [
                point(across - wide * 0.75, hip, depth),
                point(across + wide * 0.75, hip, depth),
                point(foot + 0.1, 0, depth),
                point(foot - 0.1, 0, depth),
            ],
            trousers,
        )
        hand = across + way * (wide + rng.uniform(0.02, 0.22))
        canvas.polygon(
            [
                point(across + way * wide * 0.5, shoulder, depth),
                point(across + way * wide, shoulder, depth),
                point(hand + 0.06, hip * 1.02, depth),
                point(hand - 0.06, hip * 1.02, depth),
            ],
            coat,
        )
    _trapezoid(canvas, across, wide * 0.85, wide, (hip * 0.95, shoulder), depth=depth, material=coat)
    crown = point(across, 0.92 * tall, depth)
    canvas.ellipse((crown[0], crown[1] - 0.03 * tall * scale), 0.11 * scale, 0.13 * scale, hair)
    canvas.ellipse(crown, 0.1 * scale, 0.12 * scale, skin)


def _lamp_post(canvas: Canvas, rng: np.random.Generator, street: Street, depth: float) -> None:
    side = int(rng.integers(2))
    inward = 1 if side == 0 else -1
    across = _in_view(canvas, depth, street.road[side] - inward * rng.uniform(0.25, 1.0))
    tall = rng.uniform(4, 7.5)
    wide = max(rng.uniform(0.09, 0.16), 0.9 * depth / canvas.camera.focal)
    metal: Colour = [(96, 98, 100), (150, 150, 148), (64, 76, 66), (110, 88, 66)][rng.integers(4)]
    own = varied(rng, metal, 16)
    steel = canvas.material(own, POLE, depth)
    dark = canvas.material(_scaled(own, 0.7), POLE, depth)
    canvas.upright((across - wide, across + wide), (0, tall), depth, steel)
    canvas.upright((across + wide * 0.3, across + wide), (0, tall), depth, dark)
    canvas.upright((across - 1.6 * wide, across + 1.6 * wide), (0, 0.5), depth, steel)
    if rng.random() < 0.65:
        reach = inward * rng.uniform(0.8, 2.2)
        tip = across + reach
        canvas.upright((min(across, tip), max(across, tip)), (tall - 0.18, tall), depth, steel)
        canvas.upright(
            (min(tip, tip + 0.5 * inward), max(tip, tip + 0.5 * inward)),
            (tall - 0.3, tall - 0.05),
            depth,
            dark,
        )


def _traffic_sign(canvas: Canvas, rng: np.random.Generator, street: Street, depth: float) -> None:
    side = int(rng.integers(2))
    inward = 1 if side == 0 else -1
    across = _in_view(canvas, depth, street.road[side] - inward * rng.uniform(0.3, 1.4))
    size = rng.uniform(0.42, 0.68)
    middle = rng.uniform(2.1, 2.9)
    post = canvas.material(varied(rng, (134, 136, 138), 18), POLE, depth)
    wide = max(0.05, 0.6 * depth / canvas.camera.focal)
    canvas.upright((across - wide, across + wide), (0, middle + size), depth, post)
    outer, inner = _SIGNS[rng.integers(len(_SIGNS))]
    rim = canvas.material(varied(rng, outer, 16), SIGN, depth)
    field = canvas.material(varied(rng, inner, 16), SIGN, depth)
    centre = canvas.camera.point(across, middle, depth)
    radius = size * canvas.camera.focal / depth
    shape = rng.integers(4)
    for share, material in ((1.0, rim), (rng.uniform(0.45, 0.75), field)):
        reach = radius * share
        if shape == 0:
            canvas.ellipse(centre, reach, reach, material)
        elif shape == 1:
            canvas.polygon(_around(centre, reach, ((0, -1.1), (1.05, 0.75), (-1.05, 0.75))), material)
        elif shape == 2:
            canvas.polygon(_around(centre, reach, ((-0.8, -1.1), (0.8, -1.1), (0.8, 1.1), (-0.8, 1.1))), material)
        else:
            canvas.polygon(_around(centre, reach, ((0, -1.1), (1.1, 0), (0, 1.1), (-1.1, 0))), material)


def _tree(canvas: Canvas, rng: np.random.Generator, street: Street, depth: float) -> None:
    side = rng.integers(2)
    across = street.road[side] + (street.walls[side] - street.road[side]) * rng.uniform(0.3, 1.3)
    point = canvas.camera.point
    scale = canvas.camera.focal / depth
    trunk = canvas.material(varied(rng, (84, 70, 56), 18), VEGETATION, depth)
    middle, radius = rng.uniform(3.4, 5.4), rng.uniform(1.0, 2.1)
    canvas.upright((across - 0.17, across + 0.17), (0, middle), depth, trunk)
    canvas.ground_shadow(
        [
            point(across - 1.2, 0, depth - 0.5),
            point(across + 1.5, 0, depth - 0.5),
            point(across + 1.5, 0, depth + 1.5),
            point(across - 1.2, 0, depth + 1.5),
        ],
        150,
    )
    own = varied(rng, street.leaf, 14)
    for gain in rng.permutation(np.linspace(0.72, 1.28, 9)):
        leaf = canvas.material(_scaled(own, gain), VEGETATION, depth)
        place = point(across + rng.normal(0, 0.55) * radius, middle + rng.normal(0, 0.45) * radius, depth)
        size = radius * rng.uniform(0.4, 0.75) * scale
        canvas.ellipse(place, size, size * rng.uniform(0.7, 1), leaf)


def _trapezoid(
    canvas: Canvas,
    across: float,
    low: float,
    high: float,
    up: tuple[float, float],
    *,
    depth: float,
    material: int,
) -> None:
    point = canvas.camera.point
    canvas.polygon(
        [
            point(across - low, up[0], depth),
            point(across - high, up[1], depth),
            point(across + high, up[1], depth),
            point(across + low, up[0], depth),
        ],
        material,
    )


def _around(centre: Point, reach: float, corners: tuple[Point, ...]) -> list[Point]:
    return [(centre[0] + x * reach, centre[1] + y * reach) for x, y in corners]


def _scaled(colour: Colour, gain: float) -> Colour:
    return colour[0] * gain, colour[1] * gain, colour[2] * gain
