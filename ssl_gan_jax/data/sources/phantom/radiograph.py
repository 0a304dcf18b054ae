"""Made chest radiographs: anatomy -> line integrals -> photons -> detector, in NumPy alone.

A patient is a handful of shapes (anatomy.py) whose chord along the beam has a closed form, so the
line integral of the attenuation (Beer-Lambert) is exact at every ray: ellipsoids (body, heart,
great vessels, domes of the diaphragm, scapulae), stacks of ellipses (lungs), tubes (ribs,
clavicles, spine, trachea). Lung vessels are random trees. The beam is parallel. Every picture is a
pure function of (seed, index); bright = dense, as radiologists read it.
"""

import math

import numpy as np

from ssl_gan_jax.data.sources.phantom.anatomy import (
    HEART_Z,
    SITES,
    Ellipsoid,
    Patient,
    View,
    describe,
    half_width,
    heart,
    locate,
    lungs,
    round_chord,
    width_at,
)

# Linear attenuation at 60 keV, about the mean energy of a 110 kVp chest beam, 1/cm (NIST XCOM times
# the usual densities: soft tissue 1.0, inflated lung 0.26, spongy vertebra 1.2, rib 1.6 g/cm3).
SOFT, LUNG, VERTEBRA, RIB, LEAD = 0.205, 0.054, 0.27, 0.44, 3.0  # LEAD: a thin marker, a cm "deep"

DOME_HEIGHT = 5.5  # of the diaphragm over the costophrenic angle
RIB_SPACING, RIB_DROP = 2.5, 9.0  # of neighbours; from the back end of a rib to its front end
RIB_HEIGHT, RIB_DEPTH = 0.58, 0.40  # semi-axes of a rib's cross-section
FIRST_RIB = -4  # in rib spacings: whole, so that the cut falls between two ribs
CARTILAGE = 0.42  # the front of a rib is cartilage, unseen, for |x| < this part of the half width
SPINE_Z, STERNUM_Z = 6.0, -8.0  # depths that a turn of the body pulls apart
MARKERS = {"L": ("100", "100", "100", "100", "111"), "R": ("110", "101", "110", "101", "101")}
RAYS = 128  # a side, below which a picture is an area average of 2 x 2 rays a pixel


def line_integral(patient: Patient, view: View, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Attenuation along each ray, dimensionless; x, y float32 [H, W] in the patient's frame, cm."""
    w, depth, fat = half_width(patient, view), patient.half_depth, patient.fat
    side, turn = np.abs(x), math.sin(view.yaw)

    # Air: the lungs less what stands in them. As if all lay about one z: the union is the greatest.
    dome = patient.dome - 3.0 * view.breath
    domes = [(-1, dome), (1, dome + patient.dome_step)]
    organs = [part.chord(x, y) for part in heart(patient, view)]
    organs += [
        Ellipsoid(s * 0.5 * w, top + DOME_HEIGHT, 0.56 * w, DOME_HEIGHT, 1.5 * depth).chord(
            x, np.minimum(y, top + DOME_HEIGHT)
        )
        for s, top in domes
    ]
    knob, z = patient.knob, HEART_Z * turn
    organs += [
        Ellipsoid(z + 0.3, -2.0, patient.pedicle, 12.0, 0.6 * depth).chord(x, y),
        Ellipsoid(z + 2.4, -6.2, knob, 1.1 * knob, 1.2 * knob).chord(x, y),
        Ellipsoid(z + 3.6, -2.6, 2.2, 1.6, 1.3, 0.5).chord(x, y),  # left hilum, the higher one
        Ellipsoid(z - 3.4, -1.2, 1.7, 2.7, 1.3, 0.3).chord(x, y),
    ]
    air = np.maximum(lungs(patient, view, x, y) - np.maximum.reduce(organs), 0)
    vessels, uneven = _texture(patient, x, y)
    tissue = np.minimum(vessels, air)

    # Soft tissue: the trunk, the shoulders and the neck are one piece.
    shoulder = Ellipsoid(13.0, -9.5, 12.0, 7.0, 0.7 * depth, 0.55)
    body = np.maximum.reduce(
        [
            Ellipsoid(0, 8, w + fat, 30, depth + fat).chord(x, y),
            shoulder.chord(side, y),
            Ellipsoid(0, -20, 5.5, 9, 5.5).chord(x, y),
        ]
    )
    if patient.breast:
        body += Ellipsoid(0.55 * w, 5.5, 5.6, 5.0, patient.breast / 2, -0.2).chord(side, y)
    windpipe = round_chord(((x - z + 0.2) / 0.85) ** 2, 1.7) * np.clip(-3.5 - y, 0, 1)
    if patient.gas:
        r, top = patient.gas, dome + patient.dome_step
        windpipe += Ellipsoid(0.45 * w, top + 1.0 + r, 1.4 * r, 0.9 * r, r).chord(x, y)

    # Bone, as what it adds to soft tissue.
    level = y / RIB_SPACING
    level = level - np.floor(level) - 0.5
    disc = 1 - 0.45 * np.exp(-((level / 0.12) ** 2))
    spine = round_chord((x - SPINE_Z * turn) ** 2 / 1.75**2, 3.2) * disc
    shaft = side - STERNUM_Z * turn * np.sign(x)
    clavicle = -8.0 - 0.26 * (shaft - 2) - 0.5 * np.sin(0.42 * (shaft - 2))
    collar = round_chord(((y - clavicle) / 0.62) ** 2, 1.1) * ((shaft > 1.6) & (shaft < 16.5))
    blade = Ellipsoid(0.98 * w + 1.5 - view.arms, -5.0, 2.6, 7.0, 0.35, 0.25).chord(side, y)
    arm = Ellipsoid(18.3, -12.0, 2.4, 2.4, 1.8).chord(side, y)
    cage = _ribs(patient, w + 0.4, x, y)
    return (
        SOFT * (1 + uneven) * (body - air - windpipe + tissue)
        + LUNG * patient.lung * (1 + 4 * uneven) * air
        + patient.bone * (VERTEBRA - SOFT) * spine
        + patient.bone * (RIB - SOFT) * (cage + collar + blade + arm)
    )


def render(seed: int, index: int, size: int, site: str = "both") -> np.ndarray:
    """Take picture `index` of the data set `seed`: photons through the patient onto the detector.

    Returns:
        [size,size] uint8 of the full range.
    """
    (patient, view, name), (number, take) = describe(seed, index, site), locate(index)
    rng, looks = np.random.default_rng((seed, number, 1 + take, size)), SITES[name]
    rays = 2 if size < RAYS else 1
    fine = rays * size
    part = ((np.arange(fine) + 0.5) / fine).astype(np.float32)  # of the field
    u, v = (part - 0.5) * view.field + view.x, (part - 0.5)[:, None] * view.field + view.y
    cos, sin = math.cos(view.roll), math.sin(view.roll)
    x, y = u * cos + v * sin, (v * cos - u * sin) / patient.height
    depth = line_integral(patient, view, x, y)
    _stamp(depth, looks.marker, view.marker)
    passed = np.exp(-depth).reshape(size, rays, size, rays).mean((1, 3))
    passed += looks.scatter * passed.mean()  # scatter is so wide that it is nearly flat
    counts = rng.poisson(view.photons * passed)
    density = -np.log((counts + 1) / view.photons).astype(np.float32)
    edge = size // 4
    middle = density[edge : size - edge, edge : size - edge].mean()  # automatic exposure
    shown = 1 / (1 + np.exp(-view.contrast * (density - middle + view.exposure)))
    low, high = np.quantile(shown, (0.005, 0.995))
    shown = np.clip((shown - low) / (high - low), 0, 1) ** looks.gamma
    left, right, top, bottom = (round(part * size) for part in view.shutter)
    shown[:, :left] = shown[:, size - right :] = shown[:top] = shown[size - bottom :] = 0
    return np.round(255 * shown).astype(np.uint8)


def _ribs(patient: Patient, w: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Chord of all ribs, cm. A rib is a ring on the thorax that drops from back to front; seen
    along the beam each half is a curve y = level + drop (1 -+ s) / 2, s = sqrt(1 - (x/a)^2), so
    the distance to the nearest rib is one periodic function of the level."""
    a = np.maximum(w * width_at(y), 1e-3)
    u = np.minimum(np.abs(x) / a, 1)
    s = np.sqrt(1 - u * u)
    drop = RIB_DROP * patient.rib_drop
    across, down, along = a * s, drop / 2 * u, patient.half_depth * u  # tangent of the ring
    plane = np.sqrt(across * across + down * down) + 0.05 * a
    slope = np.maximum(across / plane, 0.55)
    longer = np.sqrt(1 + (along / plane) ** 2)  # a rib seen end on is a long way through
    total = np.zeros_like(x)
    for sign in (-1, 1):
        level = (y - drop / 2 * (1 + sign * s)) / RIB_SPACING + patient.rib_phase
        off = (level - np.floor(level) - 0.5) * slope * (RIB_SPACING / RIB_HEIGHT)
        rib = round_chord(off * off, 2 * RIB_DEPTH) * (level > FIRST_RIB)
        total += rib * np.clip((u - CARTILAGE) / 0.1, 0, 1) if sign > 0 else rib
    return total * np.minimum(longer, 2) * np.minimum(3 * a * (1 - u), 1)


def _texture(patient: Patient, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thickness of the lung's vessels, cm, and unevenness of tissue about 0; both [H, W]."""
    rng = np.random.default_rng(patient.texture)
    points, volumes = _trees(rng)
    # A vessel is a string of drops: a drop's volume over a ray's area is its thickness there.
    rays = [[a[0, 1] - a[0, 0], a[1, 0] - a[0, 0]] for a in (x, y)]  # an affine grid: its steps
    where = np.linalg.solve(rays, (points - (x[0, 0], y[0, 0])).T)
    column, row = np.rint(where).astype(int)
    thickness = volumes / np.linalg.det(rays)
    height, width = x.shape
    inside = (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1)
    flat = row[inside] * width + column[inside]
    vessels = np.bincount(flat, thickness[inside], height * width).astype(np.float32)
    for shift in (1, width):  # a little blur closes the gaps between the drops
        vessels = 0.5 * vessels + 0.25 * (np.roll(vessels, shift) + np.roll(vessels, -shift))

    uneven = np.zeros_like(x)
    for knots, strength in ((7, 0.02), (17, 0.012)):  # smooth noise, a product of three matrices
        knot = np.linspace(-22, 22, knots)
        rows, columns = (
            np.exp(-(((line[:, None] - knot) * (knots - 1) / 44) ** 2)).astype(np.float32)
            for line in (y[:, width // 2], x[height // 2])
        )
        uneven += strength * rows @ rng.standard_normal((knots, knots), np.float32) @ columns.T
    return vessels.reshape(x.shape), uneven


def _trees(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Vessels that grow out of both hila and fork: points [N, 2], cm, and volumes [N], cm3."""
    stems, steps, stride, spread = 7, 15, 0.25, np.array([-0.7, 0.0, 0.7])
    fan = np.linspace(-1.9, 1.9, stems)
    heading, radius = np.concatenate([fan, np.pi + fan]), 0.45
    place = np.repeat([[3.2, -2.2], [-3.2, -1.0]], stems, 0)
    points, volumes = [], []
    for _ in range(4):
        bends = rng.normal(0, 0.06, (steps, len(heading))).cumsum(0) + heading
        ahead = np.stack([np.cos(bends), np.sin(bends)], -1)
        way = place + stride * ahead.cumsum(0)
        across = ahead[..., ::-1] * (-radius, radius)
        points.append((way + spread[:, None, None, None] * across).reshape(-1, 2))
        volumes.append(np.full(len(points[-1]), np.pi * radius**2 * stride / len(spread)))
        fork = 0.35 + rng.normal(0, 0.1, len(heading))
        heading = np.concatenate([bends[-1] + fork, bends[-1] - fork])
        place, radius = np.tile(way[-1], (2, 1)), radius * 2 ** (-1 / 3)  # Murray's law
    return np.concatenate(points), np.concatenate(volumes)


def _stamp(depth: np.ndarray, letter: str, marker: tuple[float, float, float]) -> None:
    """Lay a lead letter on the detector, in place."""
    glyph = np.array([[int(bit) for bit in row] for row in MARKERS[letter]], np.float32)
    x, y, height = (round(value * len(depth)) for value in marker)
    if height:
        width = max(3, height * 3 // 5)
        rows, columns = np.arange(height) * 5 // height, np.arange(width) * 3 // width
        patch = depth[y : y + height, x : x + len(columns)]
        patch += LEAD * glyph[np.ix_(rows, columns)][: patch.shape[0], : patch.shape[1]]
