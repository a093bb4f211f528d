"""The built-in action world: small procedural videos in which everything is known.

A textured object moves in front of a textured background. Two independent sets of classes:

* **motion** (8): no single frame reveals it and a horizontal flip keeps it;
* **appearance** (8, shape × texture): no motion reveals it.

Every state an object can be in (two offsets, size, angle, brightness) has the same distribution at any one time in
every motion class: the coordinates that a class leaves still are frozen at a random phase of the same oscillation. So
the average frame of every class is the same. Backgrounds are few and shared by all classes, so they mislead whoever
trusts them.

Two further sets of classes, off by default, are independent of these: **event** (6, ``events``), what a second actor
goes through over the whole video, in three pairs that only the arrow of time tells apart; and **count**
(``bystanders``), how many small still objects lie about.

A draw's address is (world seed, split, number within the split, attribute): adding a video, or a property, never
changes another.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from unreel.core.checks import Amount, Count, Range, Share, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.synthetic.drawing import SHAPE_REACH, TEXTURES, Array, as_f32, background_texture, hsv_to_rgb
from unreel.data.synthetic.scenes import APPEARANCES, DEPTHS, EVENTS, MOTIONS, Recipe, Scene, Track, ground_truth, paint
from unreel.data.synthetic.writing import write_world

_DISTRACTORS = ("square", "triangle", "cross")  # shapes of no class
_EVENT_SHAPE = "ring"  # of no class either, and without a pose

# What one phase does to the drawing, at size_px = 64 (lengths scale with the frame).
_SIZE_SWING = 0.25  # of the log radius
_LIGHT_SWING = 0.4  # of the brightness
_SETTLE_SCALE = 0.78  # makes the mean square offset of "settle" that of an oscillation, r²/2 (measured)
# What an event does over the whole video, at size_px = 64; each video's rate is within ± 15 % of it.
_EVENT_COLOUR = as_f32((250.0, 250.0, 240.0))  # nothing else is white
_EVENT_RADIUS_PX = (11.0, 12.0)
_EVENT_TRAVEL_PX = 40.0  # of "arrive": 20 px in the first fifth of the video, none in the last
_EVENT_FADE = 3.0  # of "dissolve": the opacity falls to exp(−3) = 5 %
_EVENT_SWING = 1.1  # of "burst": of the log radius, from 0.44 below its middle to 0.66 above
_EVENT_JUMP, _EVENT_RELAX = 0.06, 4.0  # of "burst": share of the video that the jump takes, rate of what follows
# Twelve places along the border, as shares of the frame, for still objects: none in the corners, none in the middle.
_BYSTANDER_PLACES: tuple[tuple[float, float], ...] = tuple(
    place for a in (0.3, 0.5, 0.7) for place in ((a, 0.09), (a, 0.91), (0.09, a), (0.91, a))
)
_BYSTANDER_RADIUS_PX = (3.5, 4.5)
# Periods in frames: [low, high) is cut into bins, training takes the even ones and test the odd ones.
_PERIOD_BINS = 8
# A pentatonic scale from A3: one pitch per appearance (Hz).
_PITCHES_HZ = tuple(220.0 * 2 ** (semitone / 12) for semitone in (0, 2, 4, 7, 9, 12, 14, 16))


@lru_cache(maxsize=64)
def _background(seed: int, number: int, size: int, contrast: float) -> Array:
    return background_texture(Key("action-world", seed, "background", number), size, contrast=contrast) * 255


@checked
@dataclass(frozen=True)
class ActionWorld:
    """A world of ``num_train + num_test`` videos; ``render(index)`` draws one, ``write(folder)`` makes files of all.

    Args:
        seed: the world. Two worlds share nothing.
        num_train, num_test: videos per split; index 0 … num_train − 1 are the training videos.
        size_px, num_frames, fps: of every video.
        period_frames: range of the oscillations' periods; the two splits take disjoint bins of it.
        radius_px, amplitude_px: ranges of the objects' radii and of their offsets' swing, for ``size_px = 64``.
        drift_turns: the most that an object which does not spin turns over the video, in full turns; at a steady rate
            drawn between half of it and all of it, either way. An object's pose then is not what its clips share.
        num_backgrounds: textures shared by all classes and both splits.
        background_shift: show another part of the texture in every video, which makes it tell videos apart.
        num_colors: hues per split, disjoint between the splits.
        camera, distractor, occlusion: share of videos with a drifting camera, with a second, still object, and with
            a bar in front.
        background_link: ``"none"``: independent of the classes. ``"motion"`` or ``"appearance"``: the background
            gives the class away with probability ``background_strength`` in training. In test the link is
            ``test_background``: the ``"same"``, ``"swapped"`` (it points at another class) or ``"random"``.
        contrast: contrast of the background; 0 is flat.
        events: show a second actor, a ring in front, that goes through one of ``EVENTS`` over the whole video. The
            frames of one member of a pair are, in the actor's layer, exactly the other's, last to first.
        bystanders: fewest and most small still objects of no class along the border, at most 12; (0, 0) shows none.
        audio_rate_hz: sampling rate of the sound; 0 for silent files.
    """

    seed: int = 0
    num_train: Amount = 512
    num_test: Amount = 480
    _: KW_ONLY
    size_px: int = 64
    num_frames: Annotated[int, Range(ge=2)] = 32
    fps: Count = 12
    period_frames: tuple[float, float] = (8.0, 16.0)
    radius_px: tuple[float, float] = (8.0, 10.0)
    amplitude_px: tuple[float, float] = (9.0, 12.0)
    drift_turns: Share = 0.0
    num_backgrounds: Count = 8
    background_shift: bool = False
    num_colors: Count = 6
    camera: Share = 0.25
    distractor: Share = 0.0
    occlusion: Share = 0.0
    background_link: Literal["none", "motion", "appearance"] = "none"
    background_strength: Share = 0.9
    test_background: Literal["same", "swapped", "random"] = "random"
    contrast: float = 0.5
    events: bool = False
    bystanders: tuple[int, int] = (0, 0)
    audio_rate_hz: int = 16_000

    def __post_init__(self) -> None:
        if not len(self):
            raise UsageError("an action world needs at least one video; give num_train or num_test")
        if self.size_px < 32 or self.size_px % 2:
            raise UsageError(f"size_px must be even and at least 32 (the codec's 4:2:0), got {self.size_px}")
        if not 2 <= self.period_frames[0] < self.period_frames[1]:
            raise UsageError(f"period_frames must be 2 ≤ low < high, got {self.period_frames}")
        if not 0 <= self.bystanders[0] <= self.bystanders[1] <= len(_BYSTANDER_PLACES):
            most = len(_BYSTANDER_PLACES)
            raise UsageError(f"bystanders: expected 0 ≤ fewest ≤ most ≤ {most}, got {self.bystanders}")

    def __len__(self) -> int:
        return self.num_train + self.num_test

    # ------------------------------------------------------------------------------------------------------- draws

    def locate(self, index: int) -> tuple[str, int]:
        """Split and number within it. Raises IndexError outside the world."""
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of a world with {len(self)}")
        return ("train", index) if index < self.num_train else ("test", index - self.num_train)

    def key(self, index: int) -> Key:
        """The address under which all draws of one video live."""
        split, number = self.locate(index)
        return Key("action-world", self.seed, split, number)

    def labels(self, index: int) -> tuple[int, int]:
        """Motion and appearance class. Each run of 64 videos of a split holds every pair once, in keyed order."""
        return divmod(self._in_block(index, "block", len(MOTIONS) * len(APPEARANCES)), len(APPEARANCES))

    def event(self, index: int) -> int:
        """Event class, −1 without events. Each run of 6 videos of a split holds every class once, in keyed order."""
        return self._in_block(index, "event block", len(EVENTS)) if self.events else -1

    def _in_block(self, index: int, name: str, size: int) -> int:
        split, number = self.locate(index)
        return int(Key("action-world", self.seed, split, name, number // size).permutation(size)[number % size])

    def recipe(self, index: int) -> Recipe:
        """The draws that describe one video, without drawing it."""
        key = self.key(index)
        split, _ = self.locate(index)
        motion, appearance = self.labels(index)
        scale = self.size_px / 64
        low, high = self.period_frames
        bin_number = 2 * key.child("period", "bin").integer(0, _PERIOD_BINS // 2) + (split == "test")
        position = (bin_number + key.child("period", "within").uniform()) / _PERIOD_BINS
        centre = key.child("centre")
        return Recipe(
            motion=motion,
            appearance=appearance,
            background=self._background_number(key, split, motion, appearance),
            period_frames=low * (high / low) ** position,
            amplitude_px=scale * key.child("amplitude").uniform(*self.amplitude_px),
            radius_px=scale * key.child("radius").uniform(*self.radius_px),
            centre_px=(
                self.size_px * centre.child("x").uniform(0.36, 0.64),
                self.size_px * centre.child("y").uniform(0.36, 0.64),
            ),
            camera_moves=key.child("camera").bernoulli(self.camera),
            has_distractor=key.child("distractor").bernoulli(self.distractor),
            has_occluder=key.child("occluder").bernoulli(self.occlusion),
            event=self.event(index),
            num_bystanders=key.child("bystanders").integer(self.bystanders[0], self.bystanders[1] + 1),
        )

    def _background_number(self, key: Key, split: str, motion: int, appearance: int) -> int:
        free = key.child("background").integer(0, self.num_backgrounds)
        if self.background_link == "none" or (split == "test" and self.test_background == "random"):
            return free
        linked = motion if self.background_link == "motion" else appearance
        if split == "test" and self.test_background == "swapped":
            linked += 1
        return linked % self.num_backgrounds if key.child("link").bernoulli(self.background_strength) else free

    def _colours(self, key: Key, split: str) -> tuple[Array, Array]:
        """A light and a dark tone; training hues lie on the palette, test hues half way between."""
        slot = key.child("hue").integer(0, self.num_colors) + (0.5 if split == "test" else 0.0)
        hue = (slot + key.child("hue", "within").uniform(-0.15, 0.15)) / self.num_colors % 1.0
        return hsv_to_rgb(hue, 0.75, 1.0) * 255, hsv_to_rgb((hue + 0.08) % 1.0, 0.9, 0.35) * 255

    def _track(self, key: Key, recipe: Recipe, split: str) -> Track:
        """The object's states at T + 1 times, in world pixels."""
        t = np.arange(self.num_frames + 1, dtype=np.float64)
        motion = MOTIONS[recipe.motion]
        turn = 2 * np.pi * t / recipe.period_frames + key.child("phase").uniform(0, 2 * np.pi)
        way = 1.0 if key.child("way").bernoulli(0.5) else -1.0
        still = {n: key.child("still", n).uniform(0, 2 * np.pi) for n in ("x", "y", "size", "angle", "light")}

        def swing(name: str, moving: bool) -> NDArray[np.float64]:
            """cos of a running phase where the class moves this coordinate, of a frozen one elsewhere."""
            return np.cos(turn) if moving else np.full_like(t, np.cos(still[name]))

        x, y = swing("x", motion == "horizontal"), swing("y", motion == "vertical")
        if motion == "circle":
            x, y = np.cos(way * turn), np.sin(way * turn)
        elif motion == "diagonal":  # runs along one diagonal, frozen across it
            along, across = np.cos(turn), np.cos(still["y"])
            x, y = (along - way * across) / np.sqrt(2), (way * along + across) / np.sqrt(2)
        elif motion == "settle":
            travel = recipe.period_frames
            onset = key.child("onset").uniform(0.05, 0.65) * max(self.num_frames - travel, 1.0)
            left = 1 - np.clip((t - onset) / travel, 0, 1)
            along, across = _SETTLE_SCALE * (1 - 2 * left**2), np.cos(still["y"])
            heading = key.child("heading").uniform(0, 2 * np.pi)
            x = along * np.cos(heading) - across * np.sin(heading)
            y = along * np.sin(heading) + across * np.cos(heading)
        turned = self.drift_turns * key.child("drift").uniform(0.5, 1.0)
        angle = still["angle"] + way * turned * 2 * np.pi * t / self.num_frames
        if motion == "spin":
            angle = way * turn
        shape, texture = APPEARANCES[recipe.appearance].split("-")
        return Track.of(
            self.num_frames + 1,
            x=recipe.centre_px[0] + recipe.amplitude_px * x,
            y=recipe.centre_px[1] + recipe.amplitude_px * y,
            radius=recipe.radius_px * np.exp(_SIZE_SWING * swing("size", motion == "pulse")),
            angle=angle,
            light=1 + _LIGHT_SWING * swing("light", motion == "flicker"),
            shape=shape,
            texture=texture,
            colours=self._colours(key.child("object"), split),
        )

    def _camera(self, key: Key, recipe: Recipe) -> tuple[Array, Array]:
        """The camera's place at T + 1 times, in pixels: a straight pan that is centred in mid-video."""
        t = np.arange(self.num_frames + 1, dtype=np.float64) - (self.num_frames - 1) / 2
        if not recipe.camera_moves:
            return as_f32(0 * t), as_f32(0 * t)
        heading = key.child("camera", "heading").uniform(0, 2 * np.pi)
        # Up to 8 px (at 64) over the video: the object stays in the frame.
        speed = key.child("camera", "speed").uniform(4.0, 8.0) * self.size_px / 64 / self.num_frames
        return as_f32(speed * np.cos(heading) * t), as_f32(speed * np.sin(heading) * t)

    def _distractor(self, key: Key, recipe: Recipe, split: str) -> Track:
        """A second, smaller and still object in a corner, of a shape that is no class."""
        key = key.child("distractor")
        x, y = (0.12 if key.child(axis).bernoulli(0.5) else 0.88 for axis in ("x", "y"))
        return self._still(key, "distractor", (x, y), 0.6 * recipe.radius_px, split)

    def _event(self, key: Key, event: int, split: str) -> Track:
        """The second actor's states at T + 1 times; classes 2k and 2k + 1 of one key are each other's reversal."""
        key = key.child("event")
        t = np.arange(self.num_frames + 1, dtype=np.float64)
        last = self.num_frames - 1
        # A reversed process is looked at from its end; the state after the last frame lies just before the beginning.
        s = (t if event % 2 == 0 else last - t) / last
        rate = key.child("rate").uniform(0.85, 1.15)
        scale = self.size_px / 64
        name = EVENTS[event - event % 2]
        travel, swing, opacity = np.zeros_like(s), np.zeros_like(s), None
        if name == "arrive":
            travel = _EVENT_TRAVEL_PX * scale * rate * ((1 - s) ** 3 - 0.5)
        elif name == "dissolve":
            opacity = as_f32(np.exp(-_EVENT_FADE * rate * np.maximum(s, 0)))
        else:
            jump = np.clip(s / _EVENT_JUMP, 0, 1)
            swing = _EVENT_SWING * (jump * np.exp(-_EVENT_RELAX * rate * np.maximum(s - _EVENT_JUMP, 0)) - 0.4)
        heading = key.child("heading").uniform(0, 2 * np.pi)
        place = [self.size_px * key.child(axis).uniform(0.35, 0.65) for axis in ("x", "y")]
        radius = scale * key.child("radius").uniform(*_EVENT_RADIUS_PX)
        return Track.of(
            self.num_frames + 1,
            x=place[0] + travel * np.cos(heading),
            y=place[1] + travel * np.sin(heading),
            radius=radius * np.exp(swing),
            angle=key.child("angle").uniform(0, 2 * np.pi),
            shape=_EVENT_SHAPE,
            texture="halves",
            colours=(_EVENT_COLOUR, _EVENT_COLOUR),  # plain
            kind="event",
            opacity=opacity,
        )

    def _bystander(self, key: Key, number: int, split: str) -> Track:
        """A small still object at its own place along the border."""
        place = _BYSTANDER_PLACES[int(key.child("bystanders", "places").permutation(len(_BYSTANDER_PLACES))[number])]
        key = key.child("bystander", number)
        radius = self.size_px / 64 * key.child("radius").uniform(*_BYSTANDER_RADIUS_PX)
        return self._still(key, "bystander", place, radius, split)

    def _still(self, key: Key, kind: str, place: tuple[float, float], radius: float, split: str) -> Track:
        """A still object of no class, at a place in shares of the frame."""
        return Track.of(
            self.num_frames + 1,
            x=self.size_px * place[0],
            y=self.size_px * place[1],
            radius=radius,
            angle=key.child("angle").uniform(0, 2 * np.pi),
            shape=_DISTRACTORS[key.child("shape").integer(0, len(_DISTRACTORS))],
            texture=list(TEXTURES)[key.child("texture").integer(0, len(TEXTURES))],
            colours=self._colours(key, split),
            kind=kind,
        )

    # ---------------------------------------------------------------------------------------------------- rendering

    def render(self, index: int, *, truth: bool = False) -> Scene:
        """Draw one video.

        Args:
            index: 0 … len(self) − 1.
            truth: also compute boxes, masks, flow and depth (twice the time).
        Raises: IndexError outside the world.
        """
        key, (split, number) = self.key(index), self.locate(index)
        recipe = self.recipe(index)
        camera_x, camera_y = self._camera(key, recipe)
        tracks = [self._track(key, recipe, split)]
        if recipe.has_distractor:
            tracks.append(self._distractor(key, recipe, split))
        if recipe.event >= 0:
            tracks.append(self._event(key, recipe.event, split))
        tracks += [self._bystander(key, i, split) for i in range(recipe.num_bystanders)]
        tracks = [track.shifted(-camera_x, -camera_y) for track in tracks]
        canvas, margin = self._canvas(key, recipe, camera_x[:-1], camera_y[:-1])
        for track in sorted(tracks, key=lambda track: -DEPTHS[track.kind]):
            paint(canvas, margin, track, self.num_frames)
        bar = self._occluder(key, recipe) if recipe.has_occluder else None
        inner = canvas[:, margin : margin + self.size_px, margin : margin + self.size_px]
        if bar is not None:
            inner[:, :, bar[0] : bar[1]] = bar[2]
        return Scene(
            name=f"{split}/{number:05d}",
            split=split,
            frames=np.ascontiguousarray(inner),
            audio=self._sound(key, recipe),
            audio_rate_hz=self.audio_rate_hz,
            motion=MOTIONS[recipe.motion],
            appearance=APPEARANCES[recipe.appearance],
            background=f"background-{recipe.background}",
            recipe=recipe,
            truth=ground_truth(tracks, self.size_px, (camera_x, camera_y), bar, recipe.background) if truth else None,
            event=EVENTS[recipe.event] if recipe.event >= 0 else "",
            count=recipe.num_bystanders,
        )

    def _canvas(self, key: Key, recipe: Recipe, camera_x: Array, camera_y: Array) -> tuple[NDArray[np.uint8], int]:
        """The background under every frame with a margin, so that objects may stick out: (T, S+2m, S+2m, 3)."""
        size = self.size_px
        reach = recipe.radius_px * float(np.exp(_SIZE_SWING)) * SHAPE_REACH
        margin = int(np.ceil(reach)) * 2 + 2 + size // 8
        texture = _background(self.seed, recipe.background, 2 * size, self.contrast)
        x0 = y0 = 0
        if self.background_shift:
            place = key.child("background", "place")
            x0, y0 = place.child("x").integer(0, 2 * size), place.child("y").integer(0, 2 * size)
        canvas = np.empty((self.num_frames, size + 2 * margin, size + 2 * margin, 3), dtype=np.uint8)
        inner = canvas[:, margin : margin + size, margin : margin + size]
        rows, columns = np.arange(y0, y0 + size), np.arange(x0, x0 + size)
        if not recipe.camera_moves:
            inner[:] = np.rint(texture[np.ix_(rows % (2 * size), columns % (2 * size))]).astype(np.uint8)
            return canvas, margin
        for t in range(self.num_frames):
            dx, dy = float(camera_x[t]), float(camera_y[t])
            ix, iy = int(np.floor(dx)), int(np.floor(dy))
            fx, fy = dx - ix, dy - iy
            r = np.arange(y0 + iy, y0 + iy + size + 1) % (2 * size)
            c = np.arange(x0 + ix, x0 + ix + size + 1) % (2 * size)
            wide = texture[np.ix_(r, c)]
            wide = (1 - fy) * wide[:-1] + fy * wide[1:]
            inner[t] = np.rint((1 - fx) * wide[:, :-1] + fx * wide[:, 1:])
        return canvas, margin

    def _occluder(self, key: Key, recipe: Recipe) -> tuple[int, int, NDArray[np.uint8]]:
        """A still upright bar in front: first and last column, and its colour."""
        key = key.child("occluder")
        width = self.size_px * key.child("width").uniform(0.08, 0.16)
        left = self.size_px * key.child("left").uniform(0.25, 0.65)
        grey = key.child("grey").uniform(40, 210)
        return int(left), int(left + width) + 1, np.full(3, grey, dtype=np.uint8)

    def _sound(self, key: Key, recipe: Recipe) -> NDArray[np.float32]:
        """Syllables: the pitch names the appearance, their rhythm the motion, their rate its period."""
        if not self.audio_rate_hz:
            return np.zeros(0, dtype=np.float32)
        duration_s = self.num_frames / self.fps
        num_samples = round(duration_s * self.audio_rate_hz)
        t = np.arange(num_samples, dtype=np.float32) / np.float32(self.audio_rate_hz)
        pitch = _PITCHES_HZ[recipe.appearance] * key.child("voice").uniform(0.98, 1.02)
        beats = t * np.float32(self.fps / recipe.period_frames) + np.float32(key.child("beat").uniform())
        # Eight steps per beat; the bits of a class's pattern say which are voiced (all different under rotation).
        pattern = np.array([0xFF, 0xAA, 0x88, 0xF0, 0xCC, 0xE4, 0x80, 0xE8][recipe.motion], dtype=np.uint8)
        voiced = np.unpackbits(pattern)[(8 * beats).astype(np.int64) % 8].astype(np.float32)
        ramp = max(self.audio_rate_hz // 200, 1)  # 5 ms edges, no clicks
        total = np.cumsum(np.concatenate([np.zeros(ramp, np.float32), voiced]), dtype=np.float64)
        envelope = ((total[ramp:] - total[:-ramp]) / ramp).astype(np.float32)
        wave = np.sin(np.float32(2 * np.pi * pitch) * t)
        wave += np.float32(0.4) * np.sin(np.float32(4 * np.pi * pitch) * t)
        hiss = key.child("hiss").numpy().standard_normal(num_samples, dtype=np.float32)
        return np.asarray(np.clip(0.45 * envelope * wave + 0.01 * hiss, -1, 1), dtype=np.float32)

    write = write_world

    def settings(self) -> dict[str, object]:
        """The constructor's arguments: ``ActionWorld(**settings)`` is the same world."""
        return dict(vars(self))
