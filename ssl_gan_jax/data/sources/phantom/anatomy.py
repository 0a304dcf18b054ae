"""The anatomy of made chest radiographs: patients, poses, and the shapes that they consist of.

Frame: centimetres; x to the right of the image (the patient's left), y down, z along the beam, from
the front (-) to the back (+); the origin is the midline in the middle of the chest. All that a
picture shows is a pure function of (seed, index).
"""

import math
from typing import NamedTuple

import numpy as np

APEX, WIDEST, FLOOR = -13.0, 7.0, 21.0  # y: top of the lungs, widest level, where the taper ends
HEART_Z = -3.0  # depth, which a turn of the body pulls apart from the others


class Site(NamedTuple):
    """What differs between two hospitals; (mean, standard deviation) where a pair."""

    half_width: tuple[float, float]  # inner thorax, cm
    fat: tuple[float, float]  # chest wall, cm
    field: tuple[float, float]  # side of the square field, cm
    shift: float  # of the field's centre, standard deviation, cm
    turn: float  # roll and yaw, standard deviation, degrees
    photons: float  # effective number a pixel in the open beam, whatever the pixel's size
    scatter: float  # part of the mean signal that veils the picture
    contrast: tuple[float, float]  # slope of the detector curve, 1 / (unit of log exposure)
    gamma: float  # of the display curve; below 1 washes out
    marker: str


SITES = {  # A: standing, digital, anti-scatter grid; B: at the bedside, older plates, no grid
    "A": Site((14.0, 0.9), (2.8, 0.6), (33.5, 1.3), 0.8, 2.0, 8e4, 0.15, (0.9, 0.1), 1.0, "L"),
    "B": Site((14.8, 1.1), (3.8, 0.9), (37.0, 2.0), 1.3, 3.5, 2e4, 0.35, (1.2, 0.2), 0.8, "R"),
}


class Ellipsoid(NamedTuple):
    """Centre (x, y), semi-axes a (across), b (down), c (along the beam), cm; tilt in radians."""

    x: float
    y: float
    a: float
    b: float
    c: float
    tilt: float = 0.0

    def chord(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Length of the ray through (x, y) inside, cm."""
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        x, y = x - self.x, y - self.y
        u, v = x * (cos / self.a) + y * (sin / self.a), y * (cos / self.b) - x * (sin / self.b)
        return round_chord(u * u + v * v, 2 * self.c)

    @property
    def edges(self) -> tuple[float, float]:
        """Least and greatest x."""
        half = math.hypot(self.a * math.cos(self.tilt), self.b * math.sin(self.tilt))
        return self.x - half, self.x + half


class Patient(NamedTuple):
    """Anatomy: what two pictures of one patient share."""

    half_width: float  # inner thorax at its widest, cm
    half_depth: float  # lungs, cm
    fat: float  # chest wall, cm
    height: float  # stretches everything in y
    ratio: float  # cardiothoracic ratio at a full breath, before the pose
    right_share: float  # part of the heart's width to the right of the midline
    heart_tilt: float  # long axis under the horizontal, radians
    heart_roundness: float  # short over long axis of the left ventricle
    dome: float  # y of the right dome at a full breath
    dome_step: float  # the left dome is lower by this
    pedicle: float  # half width of the great vessels, cm
    knob: float  # radius of the aortic knob, cm
    breast: float  # depth, cm; 0 for none
    lung: float  # attenuation over LUNG
    bone: float  # mineral over the usual
    rib_phase: float  # part of a rib spacing
    rib_drop: float  # over RIB_DROP
    gas: float  # radius of the stomach's bubble, cm
    texture: int  # seed of the vessels and of the unevenness of the tissue


class View(NamedTuple):
    """Pose, framing and exposure of one picture."""

    roll: float  # in the plane, radians
    yaw: float  # about the patient's axis, radians
    x: float  # the field's centre, cm
    y: float
    field: float  # side, cm
    breath: float  # 0 full, 1 shallow
    arms: float  # how far the shoulder blades lie over the lungs, cm
    photons: float
    exposure: float  # shift of the detector curve, units of log exposure
    contrast: float
    shutter: tuple[float, float, float, float]  # left, right, top, bottom, part of the field
    marker: tuple[float, float, float]  # x, y, height, part of the field; height 0 for none


def draw_patient(rng: np.random.Generator, site: Site) -> Patient:
    """An adult; the ratio is spread smoothly over the limit of 0.5, with no gap."""
    vary = _vary(rng)
    half_width = vary(*site.half_width)
    return Patient(
        half_width=half_width,
        half_depth=vary(0.58, 0.03) * half_width,
        fat=vary(*site.fat),
        height=vary(1.0, 0.05),
        ratio=vary(0.487, 0.065),
        right_share=vary(0.31, 0.035),
        heart_tilt=math.radians(vary(36, 7)),
        heart_roundness=vary(0.72, 0.06),
        dome=vary(8.8, 0.6),
        dome_step=vary(1.3, 0.5),
        pedicle=vary(3.2, 0.4),
        knob=vary(1.9, 0.3),
        breast=max(0.0, rng.uniform(-2.5, 2.5)),
        lung=vary(1.0, 0.15),
        bone=vary(1.0, 0.12),
        rib_phase=rng.uniform(),
        rib_drop=vary(1.0, 0.12),
        gas=max(0.0, rng.uniform(-1.5, 2.5)),
        texture=int(rng.integers(2**31)),
    )


def draw_view(rng: np.random.Generator, site: Site) -> View:
    """A pose and an exposure as the site takes them."""
    vary = _vary(rng)
    side = 1 if site.marker == "L" else -1
    return View(
        roll=math.radians(vary(0, site.turn)),
        yaw=math.radians(vary(0, 2 * site.turn)),
        x=vary(0, site.shift),
        y=vary(-1.0, site.shift),
        field=vary(*site.field),
        breath=rng.uniform(),
        arms=rng.uniform(0, 2.5),
        photons=site.photons * 2 ** vary(0, 0.5),
        exposure=vary(0, 0.25),
        contrast=vary(*site.contrast),
        shutter=tuple(max(0.0, rng.uniform(-0.05, 0.05)) for _ in range(4)),
        marker=(
            0.5 + side * vary(0.40, 0.02),
            vary(0.13, 0.03),
            vary(0.06, 0.01) * (rng.uniform() < 0.8),
        ),
    )


def heart(patient: Patient, view: View) -> tuple[Ellipsoid, Ellipsoid]:
    """Left ventricle and right atrium; in a shallow breath the heart lies flatter and higher."""
    width = 2 * patient.ratio * patient.half_width
    right, left = patient.right_share * width, (1 - patient.right_share) * width
    x, y = HEART_Z * math.sin(view.yaw), 4.6 - 1.3 * view.breath
    tilt, flatter = patient.heart_tilt, patient.heart_tilt - math.radians(6) * view.breath
    long = 0.62 * left / math.hypot(math.cos(tilt), patient.heart_roundness * math.sin(tilt))
    short = patient.heart_roundness * long
    ventricle = Ellipsoid(x + 0.38 * left, y, long, short, 0.9 * short, flatter)
    atrium = Ellipsoid(x - 0.2 * right, y - 1.0, 0.8 * right, 1.15 * right, 0.8 * right)
    return ventricle, atrium


def half_width(patient: Patient, view: View) -> float:
    """Half the greatest inner width of the thorax, cm; a shallow breath narrows it a little."""
    return patient.half_width * (1 - 0.03 * view.breath)


def cardiothoracic_ratio(patient: Patient, view: View) -> float:
    """Greatest width of the heart over the greatest inner width of the thorax."""
    left, right = zip(*(part.edges for part in heart(patient, view)), strict=True)
    return (max(right) - min(left)) / (2 * half_width(patient, view))


def lungs(patient: Patient, view: View, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Chord of the space for the lungs, as if neither heart nor diaphragm were there, cm."""
    taper = width_at(y)
    outer = half_width(patient, view) * taper
    inner = 1 + 6 * (1 - taper) ** 2  # the apices stand apart
    half = np.maximum((outer - inner) / 2, 1e-3)
    across = (np.abs(x) - inner) / half - 1
    square = across * across
    square = np.where(across < 0, square * square, square)  # steeper towards the midline
    apex = np.maximum((APEX + 4.8 - y) / 3.8, 0)
    return round_chord(square + apex * apex, 2 * patient.half_depth) * taper


def locate(index: int) -> tuple[int, int]:
    """(patient, view) of a picture: every third patient has two pictures, the others one."""
    group, place = divmod(index, 4)
    return 3 * group + min(place, 2), int(place == 3)


def describe(seed: int, index: int, site: str) -> tuple[Patient, View, str]:
    """Draw what picture `index` shows; `site` 'A', 'B' or 'both' (patients take turns)."""
    number, view = locate(index)
    name = "AB"[number % 2] if site == "both" else site
    patient = draw_patient(np.random.default_rng((seed, number)), SITES[name])
    return patient, draw_view(np.random.default_rng((seed, number, 1 + view)), SITES[name]), name


def _vary(rng: np.random.Generator):  # noqa: ANN202
    """Normal numbers held within two standard deviations: no monsters."""
    return lambda mean, sd: mean + sd * min(max(rng.standard_normal(), -2.0), 2.0)


def round_chord(square: np.ndarray, height: float) -> np.ndarray:
    """height * sqrt(1 - square), 0 outside: the chord of everything round."""
    return height * np.sqrt(np.maximum(1 - square, 0))


def width_at(y: np.ndarray) -> np.ndarray:
    """Width of the thorax over its greatest, by level: a bell, blunt at the top."""
    t = np.maximum((WIDEST - y) / (WIDEST - APEX), (y - WIDEST) / (FLOOR - WIDEST + 4))
    return np.sqrt(np.maximum(1 - t * t * t, 0))
