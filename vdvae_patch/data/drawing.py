"""Drawing small colour images from random numbers: fields (gradients, textures) and the shapes that they fill.

Coordinates are x, y in [-1, 1], y down. A field is `[H, W]` in 0..1 and mixes two colours; a shape is a signed
distance, negative inside, that is turned into antialiased coverage. Only uniform doubles are drawn, since PCG64's
stream of those is the same everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Canvas:
    """Pixel centres and the random numbers that decide what is drawn on them."""

    x: Plane
    y: Plane
    rng: np.random.Generator

    @classmethod
    def of(cls, size: int, rng: np.random.Generator) -> Canvas:
        centres = (2 * np.arange(size) + 1) / size - 1
        x, y = np.meshgrid(centres, centres)
        return cls(x, y, rng)

    @property
    def pixel(self) -> float:
        return 2 / len(self.x)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def one_of(self, count: int) -> int:
        return int(self.rng.random() * count)


def draw(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image `[size, size, 3]`: a background, two to four shapes on it, light from one side, and a little grain."""
    canvas = Canvas.of(size, rng)
    image = _painted(canvas)
    for _ in range(2 + canvas.one_of(3)):
        coverage = np.clip(0.5 - _shape(canvas) / canvas.pixel, 0, 1)[..., None]
        image += coverage * (_painted(canvas) - image)
    light = 0.85 + 0.3 * _gradient(canvas)
    grain = (rng.random((size, size, 3)) - 0.5) * (8 / 255)
    return np.floor(np.clip(image * light[..., None] + grain, 0, 1) * 255 + 0.5).astype(np.uint8)


def _painted(canvas: Canvas) -> Plane:
    field = _FIELDS[canvas.one_of(len(_FIELDS))](canvas)[..., None]
    return _colour(canvas) * (1 - field) + _colour(canvas) * field


def _colour(canvas: Canvas) -> Plane:
    hue, saturation, value = canvas.rng.random(), canvas.uniform(0.1, 0.95), canvas.uniform(0.15, 1.0)
    wheel = np.abs((hue + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    return np.asarray(value * (1 - saturation * (1 - np.clip(wheel, 0, 1))))


def _along(canvas: Canvas) -> Plane:
    angle = canvas.uniform(0, 2 * math.pi)
    return math.cos(angle) * canvas.x + math.sin(angle) * canvas.y


def _gradient(canvas: Canvas) -> Plane:
    return np.clip(0.5 + 0.45 * _along(canvas), 0, 1)


def _glow(canvas: Canvas) -> Plane:
    distance = np.hypot(canvas.x - canvas.uniform(-1, 1), canvas.y - canvas.uniform(-1, 1))
    return np.exp(-((distance / canvas.uniform(0.4, 1.2)) ** 2))


def _triangle_wave(phase: Plane, sharpness: float) -> Plane:
    return np.clip(0.5 + sharpness * (np.abs(phase % 1 - 0.5) - 0.25), 0, 1)


def _stripes(canvas: Canvas) -> Plane:
    return _triangle_wave(_along(canvas) * canvas.uniform(1, 4) + canvas.rng.random(), sharpness=5)


def _checks(canvas: Canvas) -> Plane:
    angle, cells = canvas.uniform(0, math.pi), canvas.uniform(1, 3)
    u = math.cos(angle) * canvas.x + math.sin(angle) * canvas.y
    v = math.cos(angle) * canvas.y - math.sin(angle) * canvas.x
    a, b = _triangle_wave(u * cells, sharpness=8), _triangle_wave(v * cells, sharpness=8)
    return a + b - 2 * a * b  # exclusive or of two sets of stripes


def _ripples(canvas: Canvas) -> Plane:
    first, second = (np.sin(_along(canvas) * canvas.uniform(3, 14) + canvas.uniform(0, 6)) for _ in range(2))
    return 0.5 + 0.25 * (first + second)


def _clouds(canvas: Canvas) -> Plane:
    """Value noise: random lattices of 3, 6 and 12 cells, smoothly interpolated and summed with falling weight."""
    total = np.zeros_like(canvas.x)
    for cells, weight in ((3, 0.55), (6, 0.3), (12, 0.15)):
        lattice = canvas.rng.random((cells + 1, cells + 1))
        position = (canvas.x[0] + 1) / 2 * cells
        low = np.floor(position).astype(np.int64)
        step = position - low
        step = step * step * (3 - 2 * step)
        rows = lattice[low] * (1 - step[:, None]) + lattice[low + 1] * step[:, None]
        total += weight * (rows[:, low] * (1 - step) + rows[:, low + 1] * step)
    return np.clip(0.5 + 1.8 * (total - 0.5), 0, 1)


def _shape(canvas: Canvas) -> Plane:
    x, y = canvas.x - canvas.uniform(-0.7, 0.7), canvas.y - canvas.uniform(-0.7, 0.7)
    radius, angle = canvas.uniform(0.2, 0.65), canvas.uniform(0, 2 * math.pi)
    distance = np.hypot(x, y)
    match canvas.one_of(5):
        case 0:
            return distance - radius
        case 1:
            return np.abs(distance - radius) - canvas.uniform(0.06, 0.15)
        case 2:
            bite = np.hypot(x - 0.6 * radius * math.cos(angle), y - 0.6 * radius * math.sin(angle))
            return np.maximum(distance - radius, 0.8 * radius - bite)
        case 3:
            u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
            return np.maximum(np.abs(u) - radius, np.abs(v) - radius * canvas.uniform(0.2, 0.9))
        case _:
            sector = 2 * math.pi / (3 + canvas.one_of(4))
            around = (np.arctan2(y, x) + angle) % sector - sector / 2
            return distance * np.cos(around) - radius * math.cos(sector / 2)


_FIELDS = (_gradient, _glow, _stripes, _checks, _ripples, _clouds)
