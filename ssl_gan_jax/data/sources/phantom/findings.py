"""Several findings in a made radiograph: an enlarged heart, effusion, a nodule, a pneumothorax.

They are independent of each other, and overlap in a patient. All but the heart change what fills
the space for the air of the lungs, so the line integral changes with the thickness of that air:

    effusion        fluid from the diaphragm up to a surface that rises to the side, on one side
    nodule          a ball of soft tissue
    pneumothorax    bare air along the wall, widest at the apex: neither lung nor vessels there

The findings are a pure function of the patient, so that two pictures of a patient share them.
"""

import types
from typing import NamedTuple

import numpy as np

from ssl_gan_jax.data.sources.phantom import anatomy, radiograph
from ssl_gan_jax.data.sources.phantom.anatomy import Ellipsoid, Patient, View
from ssl_gan_jax.data.sources.phantom.radiograph import LUNG, SOFT

NAMES = ("cardiomegaly", "effusion", "nodule", "pneumothorax")
LIMIT = 0.5  # cardiothoracic ratio of an adult above which the heart counts as enlarged
SHARE = 0.3  # of the patients that have each of the others
EDGE = 0.4  # cm, over which fluid and collapsed lung end


class Findings(NamedTuple):
    """Sizes in cm, 0 for none; a side is -1 or 1, the sign of x."""

    effusion: float  # rise of the fluid's surface from the midline to the wall
    effusion_side: int
    nodule: float  # radius
    nodule_at: tuple[int, float, float]  # side, part of the way from midline to wall, y
    pneumothorax: float  # from the wall to the lung, at the apex
    pneumothorax_side: int


def draw(patient: Patient) -> Findings:
    """The findings of a patient, beside the heart."""
    rng = np.random.default_rng((patient.texture, len(NAMES)))

    def size(low: float, high: float) -> float:
        return rng.uniform(low, high) * (rng.uniform() < SHARE)

    def side() -> int:
        return int(rng.choice((-1, 1)))

    return Findings(
        effusion=size(4.0, 10.0),
        effusion_side=side(),
        nodule=size(1.0, 2.0),
        nodule_at=(side(), rng.uniform(0.4, 0.8), rng.uniform(-8.0, 1.0)),
        pneumothorax=size(2.5, 6.0),
        pneumothorax_side=side(),
    )


def labels(patient: Patient, view: View) -> tuple[int, ...]:
    """Whether the picture shows each of NAMES: 1 or 0."""
    found = draw(patient)
    sizes = found.effusion, found.nodule, found.pneumothorax
    enlarged = anatomy.cardiothoracic_ratio(patient, view) > LIMIT
    return int(enlarged), *(int(size > 0) for size in sizes)


def line_integral(patient: Patient, view: View, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """As `radiograph.line_integral`, with the findings of the patient."""
    found, whole = draw(patient), radiograph.line_integral(patient, view, x, y)
    if not (found.effusion or found.nodule or found.pneumothorax):
        return whole
    # The integral is linear in the density of the lung, so its slope is the thickness of the air.
    denser = patient._replace(lung=patient.lung + 1)
    air = np.maximum(radiograph.line_integral(denser, view, x, y) - whole, 0) / LUNG
    lung = LUNG * patient.lung
    wall = anatomy.half_width(patient, view) * anatomy.width_at(y)

    fluid = np.zeros_like(air)  # part of the air that is fluid
    if found.effusion:
        left = found.effusion_side > 0
        dome = patient.dome - 3.0 * view.breath + left * patient.dome_step
        surface = dome + 2 - found.effusion * (x / np.maximum(wall, 1e-3)) ** 2
        fluid = _within(y - surface) * (np.sign(x) == found.effusion_side)
    bare = np.zeros_like(air)  # part of the rest that holds no lung
    if found.pneumothorax:
        above = np.clip((anatomy.WIDEST - y) / (anatomy.WIDEST - anatomy.APEX), 0, 1)
        rim = found.pneumothorax * above - (wall - np.abs(x))
        bare = _within(rim) * (above > 0) * (np.sign(x) == found.pneumothorax_side) * (1 - fluid)
        vessels, _ = radiograph._texture(patient, x, y)
        whole -= bare * (lung * air + SOFT * np.minimum(vessels, air))
    if found.nodule:
        side, part, level = found.nodule_at
        at = side * part * anatomy.half_width(patient, view) * anatomy.width_at(np.float64(level))
        ball = Ellipsoid(float(at), level, *[found.nodule] * 3).chord(x, y)
        whole += np.minimum(ball, air) * (1 - fluid) * (SOFT - lung * (1 - bare))
    return whole + fluid * air * (SOFT - lung)


def _within(depth: np.ndarray) -> np.ndarray:
    """From 0 outside to 1 inside, over EDGE."""
    return np.clip(depth / EDGE + 0.5, 0, 1)


# `radiograph.render` with this line integral. radiograph.py has no argument for it, because a
# change of that file would prepare everybody's pictures without findings again.
render = types.FunctionType(
    radiograph.render.__code__,
    {**vars(radiograph), "line_integral": line_integral},
    argdefs=radiograph.render.__defaults__,
)
