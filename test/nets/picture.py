"""A drawn person, the same on every machine: pure numpy, no image file, no rasteriser."""

import numpy as np

JOINTS = {  # x, y as fractions of the square picture
    "nose": (0.50, 0.17), "l_sho": (0.59, 0.30), "r_sho": (0.41, 0.30),
    "l_elb": (0.66, 0.43), "r_elb": (0.33, 0.42), "l_wri": (0.70, 0.55),
    "r_wri": (0.27, 0.33), "l_hip": (0.56, 0.55), "r_hip": (0.44, 0.55),
    "l_kne": (0.58, 0.73), "r_kne": (0.41, 0.72), "l_ank": (0.60, 0.91), "r_ank": (0.39, 0.90),
}  # fmt: skip
SKIN, SHIRT, TROUSERS, HAIR = (214, 168, 140), (60, 90, 170), (50, 50, 60), (60, 40, 30)
CAPSULES = (  # from, to, radius as a fraction, colour; later ones are drawn over earlier ones
    ("l_hip", "l_kne", 0.045, TROUSERS), ("l_kne", "l_ank", 0.035, TROUSERS),
    ("r_hip", "r_kne", 0.045, TROUSERS), ("r_kne", "r_ank", 0.035, TROUSERS),
    ("l_sho", "r_hip", 0.065, SHIRT), ("r_sho", "l_hip", 0.065, SHIRT),
    ("l_sho", "r_sho", 0.050, SHIRT), ("l_hip", "r_hip", 0.050, TROUSERS),
    ("l_sho", "l_elb", 0.030, SHIRT), ("l_elb", "l_wri", 0.025, SKIN),
    ("r_sho", "r_elb", 0.030, SHIRT), ("r_elb", "r_wri", 0.025, SKIN),
)  # fmt: skip


def drawn_person(size: int) -> np.ndarray:
    """Return a (size, size, 3) uint8 RGB picture of one standing person."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    rng = np.random.default_rng(7)
    picture = np.stack((150 + 60 * y, 165 + 40 * x, 140 + 30 * np.sin(9 * x)), -1)
    picture[y > 0.86] = (110, 100, 85)
    for start, end, radius, colour in CAPSULES:
        inside = _distance(x, y, JOINTS[start], JOINTS[end]) < radius
        picture[inside] = colour
    nose = JOINTS["nose"]
    for dx, dy, radius, colour in (
        (0, -0.03, 0.075, HAIR), (0, 0, 0.065, SKIN),
        (-0.025, -0.015, 0.010, HAIR), (0.025, -0.015, 0.010, HAIR),
        (0, 0.035, 0.012, (170, 80, 80)), (0, 0.005, 0.008, (180, 130, 110)),
    ):  # fmt: skip
        picture[np.hypot(x - nose[0] - dx, y - nose[1] - dy) < radius] = colour
    picture += rng.integers(-6, 7, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def _distance(
    x: np.ndarray, y: np.ndarray, a: tuple[float, float], b: tuple[float, float]
) -> np.ndarray:
    """Return the distance of every pixel to the segment from a to b."""
    along = np.array(b) - np.array(a)
    t = (((x - a[0]) * along[0] + (y - a[1]) * along[1]) / (along @ along)).clip(0, 1)
    return np.hypot(x - a[0] - t * along[0], y - a[1] - t * along[1])
