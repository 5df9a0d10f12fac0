"""The static street: sky, rows of facades and open plots, the street's end, road, pavements and verges.

The model: every pixel's ray meets the ground, one of two walls along the street, or a plane across its end;
what is painted there follows from the place in metres, so windows, planks, tiles and markings are in
perspective by themselves. The failure this guards against: flat test pictures in which colour alone gives the
class away.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workloads.datasets.street.canvas import Camera, Colour, Haze, Materials

SKY, BUILDING, ROAD, SIDEWALK, VEGETATION, CAR, PERSON, POLE, SIGN, FENCE = range(10)

_LEFT, _RIGHT, _END = range(3)
_LEAVES: tuple[Colour, ...] = (
    (62, 84, 40),
    (84, 98, 52),
    (48, 72, 44),
    (110, 104, 52),
    (126, 92, 48),
    (92, 96, 84),
)
_FACADES: tuple[Colour, ...] = (
    (148, 84, 68),
    (196, 178, 146),
    (206, 202, 194),
    (128, 128, 130),
    (164, 148, 128),
    (108, 118, 102),
    (180, 150, 92),
    (118, 100, 92),
    (132, 146, 166),
    (92, 92, 98),
)
_PLANKS: tuple[Colour, ...] = (
    (116, 88, 62),
    (196, 194, 188),
    (108, 110, 112),
    (74, 92, 70),
    (140, 122, 100),
    (150, 96, 76),
)
_WINDOW_CHOICES = 4
_NEVER = -1.0

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Street:
    """Where things are, in metres across the street (right is positive) and along it.

    Attributes:
        road: left and right edge of the road.
        walls: left and right row of facades.
        end: distance of the end of the street.
        sun_from_left: whether the left wall lies in shade.
        leaf: the colour of this street's leaves.
    """

    road: tuple[float, float]
    walls: tuple[float, float]
    end: float
    sun_from_left: bool
    leaf: Colour


@dataclass(frozen=True)
class Scenery:
    """The painted street before objects.

    Attributes:
        materials: material numbers, int32 (H, W).
        light: factor on each pixel's colour, float32 (H, W).
        depth: distance in metres, float32 (H, W); 0 for the sky.
    """

    materials: npt.NDArray[np.int32]
    light: Floats
    depth: Floats


@dataclass
class _Plots:
    """The plots along a wall or across the end: facades, or a fence with leaves or sky behind it."""

    start: Floats
    length: Floats
    facade: npt.NDArray[np.int32]
    fence: npt.NDArray[np.int32]
    top: Floats
    fence_top: Floats
    gable: Floats
    leafy: npt.NDArray[np.bool_]
    storey: Floats
    bay: Floats
    window_from: Floats
    window_to: Floats
    brick: Floats
    plank: Floats


def draw_street(rng: np.random.Generator) -> Street:
    """A random street: 5 to 8.4 m of road, pavements of 2 to 5 m, an end 35 to 110 m away."""
    middle = rng.uniform(-1.6, 1.6)
    half = rng.uniform(2.5, 4.2)
    left, right = middle - half, middle + half
    return Street(
        road=(left, right),
        walls=(left - rng.uniform(2.0, 5.0), right + rng.uniform(2.0, 5.0)),
        end=rng.uniform(35, 110),
        sun_from_left=bool(rng.random() < 0.5),
        leaf=varied(rng, _LEAVES[rng.integers(len(_LEAVES))], 14),
    )


def varied(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """``colour`` with each channel, and all together, moved by up to ``spread``."""
    shift = rng.uniform(-spread, spread, 4)
    red, green, blue = (min(max(own + shift[3] + move, 4.0), 250.0) for own, move in zip(colour, shift, strict=False))
    return red, green, blue


def paint_scenery(
    rng: np.random.Generator, camera: Camera, street: Street, haze: Haze, materials: Materials
) -> Scenery:
    """Paint the static street; ``materials`` gains what it needs, beginning with the sky as number 0."""
    sky = materials.add(haze.colour, SKY)
    glass = [materials.add(_glass(rng, haze), BUILDING) for _ in range(_WINDOW_CHOICES)]
    plots = [_draw_plots(rng, street, side, materials) for side in (_LEFT, _RIGHT, _END)]
    table = _joined(plots)

    slope_W = ((np.arange(camera.width, dtype=np.float32) + 0.5) - np.float32(camera.centre)) / np.float32(camera.focal)
    drop_H = ((np.arange(camera.height, dtype=np.float32) + 0.5) - np.float32(camera.horizon)) / np.float32(
        camera.focal
    )
    steep_W = np.where(np.abs(slope_W) < 1e-3, np.float32(1e-3), slope_W)
    wall_W = np.where(steep_W < 0, np.float32(street.walls[0]), np.float32(street.walls[1])) / steep_W
    depth_W = np.minimum(wall_W, np.float32(street.end))
    at_end_W = wall_W >= street.end
    along_W = np.where(at_end_W, slope_W * np.float32(street.end), depth_W)
    side_W = np.where(at_end_W, _END, np.where(slope_W < 0, _LEFT, _RIGHT))
    plot_W = _plot_numbers(plots, side_W, along_W)

    up_HW = np.float32(camera.above_road) - drop_H[:, None] * depth_W[None, :]
    material_HW, light_HW = _paint_walls(rng, table, plot_W, along_W, depth_W, up_HW, sky=sky, glass=np.array(glass))
    sunny_W = np.array([0.8, 1.05, 0.92] if street.sun_from_left else [1.05, 0.8, 0.92], dtype=np.float32)[side_W]
    wall_HW = material_HW != sky
    light_HW *= np.where(wall_HW, sunny_W[None, :], np.float32(1))

    ground_HW = up_HW < 0
    first = int(np.argmax(ground_HW.any(axis=1))) if ground_HW.any() else camera.height
    depth_H = np.float32(camera.above_road) / np.maximum(drop_H, np.float32(1e-3))
    below = _paint_ground(rng, street, slope_W, depth_H[first:], materials)
    material_HW[first:] = np.where(ground_HW[first:], below[0], material_HW[first:])
    light_HW[first:] = np.where(ground_HW[first:], below[1], light_HW[first:])
    depth_HW = np.where(ground_HW, depth_H[:, None], np.where(wall_HW, depth_W[None, :], np.float32(0)))
    return Scenery(material_HW, light_HW, depth_HW)


def _draw_plots(rng: np.random.Generator, street: Street, side: int, materials: Materials) -> _Plots:
    start, stop = (street.walls[0] - 1, street.walls[1] + 1) if side == _END else (0.0, street.end + 1)
    edges = [start]
    while edges[-1] < stop:
        edges.append(edges[-1] + rng.uniform(6, 18))
    count = len(edges) - 1
    open_plot = rng.random(count) < (0.45 if side == _END else 0.2)
    if side != _END:
        # One open plot in the part of the wall that is in view, so that fences are not rare.
        open_plot[min(int(np.searchsorted(edges, rng.uniform(13, 24))), count - 1)] = True
    leafy = open_plot & (rng.random(count) < 0.7)
    bare = open_plot & ~leafy
    fence_top = np.where(open_plot, rng.uniform(1.1, 2.4, count), _NEVER)
    if side == _END:
        fence_top[:] = _NEVER
    top = np.where(leafy, rng.uniform(3, 8, count), np.where(bare, _NEVER, rng.uniform(5, 17, count)))
    window_from = rng.uniform(0.15, 0.35, count)
    facade = [
        materials.add(varied(rng, street.leaf, 8), VEGETATION)
        if is_leafy
        else materials.add(varied(rng, _FACADES[rng.integers(len(_FACADES))], 22), BUILDING)
        for is_leafy in leafy
    ]
    fence = [materials.add(varied(rng, _PLANKS[rng.integers(len(_PLANKS))], 18), FENCE) for _ in range(count)]
    return _Plots(
        start=np.array(edges[:-1], dtype=np.float32),
        length=np.diff(edges).astype(np.float32),
        facade=np.array(facade, dtype=np.int32),
        fence=np.array(fence, dtype=np.int32),
        top=top.astype(np.float32),
        fence_top=fence_top.astype(np.float32),
        gable=np.where(rng.random(count) < 0.4, rng.uniform(0, 3, count), 0).astype(np.float32),
        leafy=leafy,
        storey=rng.uniform(2.7, 3.6, count).astype(np.float32),
        bay=rng.uniform(1.6, 3.6, count).astype(np.float32),
        window_from=window_from.astype(np.float32),
        window_to=(window_from + rng.uniform(0.3, 0.55, count)).astype(np.float32),
        brick=np.where(rng.random(count) < 0.5, rng.uniform(0.1, 0.25, count), 0).astype(np.float32),
        plank=rng.uniform(0.2, 0.5, count).astype(np.float32),
    )


def _joined(plots: list[_Plots]) -> _Plots:
    names = _Plots.__dataclass_fields__
    return _Plots(**{name: np.concatenate([getattr(part, name) for part in plots]) for name in names})


def _plot_numbers(plots: list[_Plots], side_W: npt.NDArray[np.int64], along_W: Floats) -> npt.NDArray[np.int64]:
    numbers = np.zeros(side_W.shape, dtype=np.int64)
    first = 0
    for side, part in enumerate(plots):
        here = side_W == side
        numbers[here] = first + np.searchsorted(part.start[1:], along_W[here])
        first += len(part.top)
    return numbers


def _paint_walls(
    rng: np.random.Generator,
    table: _Plots,
    plot_W: npt.NDArray[np.int64],
    along_W: Floats,
    depth_W: Floats,
    up_HW: Floats,
    *,
    sky: int,
    glass: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int32], Floats]:
    storey_W, bay_W, leafy_W = table.storey[plot_W], table.bay[plot_W], table.leafy[plot_W]
    bays_W = along_W / bay_W
    bay_number_W = np.floor(bays_W)
    within_bay_W = bays_W - bay_number_W
    ragged_W = np.repeat(rng.uniform(-0.16, 0.16, along_W.size // 3 + 1), 3)[: along_W.size].astype(np.float32)
    within_plot_W = (along_W - table.start[plot_W]) / table.length[plot_W]
    roof_W = table.gable[plot_W] * np.maximum(1 - np.abs(2 * within_plot_W - 1), 0)
    top_W = table.top[plot_W] * np.where(leafy_W, 1 + ragged_W, 1) + np.where(leafy_W, 0, roof_W)

    storeys_HW = up_HW / storey_W[None, :]
    storey_number_HW = np.floor(storeys_HW)
    within_storey_HW = storeys_HW - storey_number_HW
    material_HW = np.where(up_HW < top_W[None, :], table.facade[plot_W][None, :], np.int32(sky))

    opening_W = (within_bay_W > table.window_from[plot_W]) & (within_bay_W < table.window_to[plot_W]) & ~leafy_W
    window_HW = (within_storey_HW > 0.28) & (within_storey_HW < 0.8) & opening_W[None, :]
    window_HW &= up_HW < (table.top[plot_W] - 0.6)[None, :]
    kinds = glass[rng.integers(0, glass.size, 64)].astype(np.int32)
    which_HW = (
        storey_number_HW.astype(np.int32) * 7 + (bay_number_W.astype(np.int32) * 13 + plot_W.astype(np.int32))[None, :]
    ) & 63
    material_HW = np.where(window_HW, kinds[which_HW], material_HW)

    # Mortar lines of bricks, and ledges between storeys, fade where they would be finer than a pixel.
    near_W = np.clip(1.6 - depth_W / 20, 0, 1).astype(np.float32)
    courses_HW = up_HW * np.float32(2.4)
    mortar_HW = (courses_HW - np.floor(courses_HW)) < 0.35
    light_HW = 1 - mortar_HW * np.where(leafy_W, 0, table.brick[plot_W] * near_W)[None, :]
    light_HW -= ((within_storey_HW < 0.06) & ~leafy_W[None, :]) * np.float32(0.15)
    light_HW = np.where(material_HW == sky, np.float32(1), light_HW)

    fence_HW = up_HW < table.fence_top[plot_W][None, :]
    material_HW = np.where(fence_HW, table.fence[plot_W][None, :], material_HW)
    planks_W = along_W / table.plank[plot_W]
    slit_W = (planks_W - np.floor(planks_W)) < 0.35
    rail_HW = (up_HW > 0.35) & (up_HW < 0.5)
    light_HW = np.where(fence_HW, 1 - 0.45 * slit_W[None, :] * ~rail_HW, light_HW)
    return material_HW, light_HW.astype(np.float32)


def _paint_ground(
    rng: np.random.Generator, street: Street, slope_W: Floats, depth_h: Floats, materials: Materials
) -> tuple[npt.NDArray[np.int32], Floats]:
    grey = rng.uniform(62, 132)
    road = materials.add(varied(rng, (grey, grey, grey + 2), 8), ROAD)
    paint = materials.add(varied(rng, (205, 204, 196), 16), ROAD)
    slab_grey = grey + rng.uniform(-22, 44)
    slab = materials.add(varied(rng, (slab_grey + 4, slab_grey, slab_grey - 4), 8), SIDEWALK)
    verge = materials.add(varied(rng, street.leaf, 12), VEGETATION)
    left, right = street.road

    across_hW = slope_W[None, :] * depth_h[:, None]
    beyond_hW = np.maximum(np.float32(left) - across_hW, across_hW - np.float32(right))
    material_hW = np.where(beyond_hW > 0, np.int32(slab), np.int32(road))
    light_hW = np.ones(across_hW.shape, dtype=np.float32)

    # The kerb: a light strip and the dark gutter before it.
    light_hW += (np.abs(beyond_hW - 0.1) < 0.1) * np.float32(0.22)
    light_hW -= (np.abs(beyond_hW + 0.12) < 0.12) * np.float32(0.25)
    if rng.random() < 0.75:
        size = np.float32(rng.uniform(0.5, 1.2))
        joint_hW = _line(across_hW / size, 0.16) | _line(depth_h / size, 0.2)[:, None]
        near_h = np.clip(1.5 - depth_h / 14, 0, 1)
        light_hW -= (joint_hW & (beyond_hW > 0.2)) * (np.float32(0.24) * near_h)[:, None]
    if rng.random() < 0.45:
        inner = rng.uniform(0.3, 0.9)
        side_hW = across_hW < left if rng.random() < 0.5 else across_hW > right
        material_hW[(beyond_hW > inner) & (beyond_hW < inner + rng.uniform(0.8, 2)) & side_hW] = verge
    if rng.random() < 0.75:
        middle = np.float32((left + right) / 2 + rng.uniform(-0.4, 0.4))
        dashed_h = _line(depth_h / np.float32(rng.uniform(5, 9)) + np.float32(rng.random()), rng.uniform(0.4, 1.01))
        material_hW[(np.abs(across_hW - middle) < 0.09) & dashed_h[:, None]] = paint
    if rng.random() < 0.25:
        start = rng.uniform(6, 16)
        stripe_hW = _line(across_hW / np.float32(1), 0.5) & (beyond_hW < -0.3)
        material_hW[stripe_hW & ((depth_h > start) & (depth_h < start + 3.2))[:, None]] = paint
    # Repaired patches, and the shade that the row of houses throws.
    patch = np.sort(rng.uniform(4, 30, 2))
    tarred_hW = (np.abs(across_hW - rng.uniform(left, right)) < 0.9) & (beyond_hW < 0)
    light_hW -= (tarred_hW & ((depth_h > patch[0]) & (depth_h < patch[1]))[:, None]) * np.float32(rng.uniform(0, 0.2))
    reach = rng.uniform(-2, 5)
    shaded_hW = across_hW < left + reach if street.sun_from_left else across_hW > right - reach
    light_hW *= np.where(shaded_hW, np.float32(rng.uniform(0.5, 0.95)), np.float32(1))
    return material_hW, light_hW


def _line(place: Floats, share: float) -> npt.NDArray[np.bool_]:
    """True on the first ``share`` of every unit."""
    return (place - np.floor(place)) < share


def _glass(rng: np.random.Generator, haze: Haze) -> Colour:
    grey = rng.uniform(22, 90)
    mirror = rng.uniform(0, 0.7)
    red, green, blue = (grey * (1 - mirror) + air * mirror for air in haze.colour)
    return varied(rng, (red, green, blue + 6), 12)
