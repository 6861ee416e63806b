"""Cameras: where they look, how they see colour, and how people walk past them.

The cameras of a world are spread over the range of every property, so that no two of them see alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.synthetic.settings import WIDTH, WorldSettings, generator


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera. Rows and heights are pixels; `turn` is the angle (radians) by which right-walkers face the camera.

    `drift` holds the speed and phase of the light's brightness and of its warmth.
    """

    name: str
    number: int
    response: np.ndarray
    gamma: float
    noise: float
    blur: float
    shade: np.ndarray
    drift: np.ndarray
    horizon: float
    far_row: float
    near_row: float
    near_height: float
    turn: float
    right_share: float

    def foot_row(self, x: float, lane: float) -> float:
        """Row of the feet at column x of someone in a lane, 0 (far) to 1 (near); who faces the camera comes nearer."""
        across = 70 * np.sin(self.turn) * (x / WIDTH - 0.5)
        return self.far_row + lane * (self.near_row - self.far_row) + across

    def person_height(self, foot_row: float) -> float:
        """Height in pixels of a person of common height."""
        return self.near_height * (foot_row - self.horizon) / (self.near_row - self.horizon)

    def yaw(self, direction: int) -> float:
        """Where people face who walk to the right (1) or to the left (-1)."""
        return direction * np.pi / 2 - self.turn

    def light(self, time_s: float) -> np.ndarray:
        """Gain of red, green and blue at a time: clouds pass, lamps warm up; it changes within a crossing."""
        brightness, warmth = np.sin(time_s * self.drift[:, 0] + self.drift[:, 1])
        return (0.82 + 0.14 * brightness) * (1 + 0.04 * warmth * np.array([1.0, 0.0, -2.0]) - 0.04)

    def see(self, colour: np.ndarray) -> np.ndarray:
        """What the sensor makes of colours (..., 3) in 0 to 1."""
        return np.clip(colour @ self.response.T, 0, 1) ** np.float32(self.gamma)


def draw_cameras(settings: WorldSettings) -> list[Camera]:
    """The cameras of a world."""
    return [_draw_camera(settings, index) for index in range(settings.num_cameras)]


def _draw_camera(settings: WorldSettings, index: int) -> Camera:
    rng = generator(settings.seed, "camera", index)

    def spread(low: float, high: float, purpose: str) -> float:
        """A value from this camera's own slice of the range; the slices are dealt out at random."""
        order = generator(settings.seed, f"spread {purpose}").permutation(settings.num_cameras)
        return low + (int(order[index]) + float(rng.uniform(0.1, 0.9))) / settings.num_cameras * (high - low)

    near_row = spread(246, 264, "near row")
    return Camera(
        name=settings.cameras[index],
        number=index,
        response=_draw_response(
            rng,
            warmth=spread(-1, 1, "warmth"),
            tint=spread(-1, 1, "tint"),
            saturation=spread(0.7, 1.15, "saturation"),
            exposure=spread(0.85, 1.15, "exposure"),
        ),
        gamma=spread(0.85, 1.15, "gamma"),
        noise=spread(1.0, 3.0, "noise"),
        blur=spread(0.0, 0.7, "blur"),
        shade=np.interp(np.linspace(0, 2, WIDTH), (0, 1, 2), rng.permutation([0.64, 0.82, 1.0])).astype(np.float32),
        drift=np.stack([rng.uniform(0.3, 0.8, 2), rng.uniform(0, 2 * np.pi, 2)], axis=1),
        horizon=spread(-120, 0, "horizon"),
        far_row=near_row - spread(45, 65, "depth"),
        near_row=near_row,
        near_height=spread(116, 134, "scale"),
        turn=spread(-0.85, 0.85, "turn"),
        right_share=spread(0.2, 0.8, "flow"),
    )


def _draw_response(
    rng: np.random.Generator, *, warmth: float, tint: float, saturation: float, exposure: float
) -> np.ndarray:
    """The 3x3 colour matrix: crosstalk of the channels, saturation, white balance and exposure."""
    luminance = np.array([0.30, 0.59, 0.11])
    saturate = saturation * np.eye(3) + (1 - saturation) * luminance
    balance = np.diag([1 + 0.03 * warmth, 1 + 0.02 * tint, 1 - 0.03 * warmth])
    leak = rng.uniform(-0.1, 0.1, (3, 3))
    crosstalk = np.eye(3) + leak - leak.mean(axis=1, keepdims=True)  # grey stays grey
    return (exposure * balance @ crosstalk @ saturate).astype(np.float32)
