"""Speech for tests: spoken by espeak-ng when it is asked for, or recorded (tests/media).

    from speech import SAMPLES, sound
    sound("german", 24_000)     # int16, at 24 kHz

Mark tests that use spoken samples with `needs_espeak`.
"""

from __future__ import annotations

import io
import math
import subprocess
from functools import cache
from typing import Final, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from needs import MEDIA, program


class Spoken(NamedTuple):
    """What espeak-ng is told."""

    voice: str
    speed: int
    """Words a minute."""
    pitch: int
    """0 … 99."""
    text: str


SPOKEN: Final = {
    "american": Spoken(
        "en-us",
        150,
        50,
        "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background. "
        "It is easy to tell the depth of a well.",
    ),
    "british": Spoken(
        "en-gb+f3",
        180,
        60,
        "These days a chicken leg is a rare dish. Rice is often served in round bowls. "
        "The juice of lemons makes fine punch.",
    ),
    "german": Spoken(
        "de+m3",
        130,
        40,
        "Heute ist schönes Frühlingswetter. Die Sonne lacht. Am blauen Himmel ziehen die Wolken, "
        "und über die Felder weht ein Wind.",
    ),
    "french": Spoken(
        "fr+f2",
        160,
        55,
        "Il se garantira du froid avec un bon capuchon. Annie s'ennuie loin de mes parents. "
        "Les deux camions se sont heurtés de face.",
    ),
}
LESSONS: Final = {
    "american": (
        "The box was thrown beside the parked truck. The hogs were fed chopped corn and garbage. "
        "Four hours of steady work faced us. A large size in stockings is hard to sell.",
        "The boy was there when the sun rose. A rod is used to catch pink salmon. "
        "The source of the huge river is the clear spring. Kick the ball straight and follow through.",
        "Help the woman get back to her feet. A pot of tea helps to pass the evening. "
        "Smoky fires lack flame and heat. The soft cushion broke the man's fall.",
        "The salt breeze came across from the sea. The girl at the booth sold fifty bonds. "
        "The small pup gnawed a hole in the sock. The fish twisted and turned on the bent hook.",
        "Press the pants and sew a button on the vest. The swan dive was far short of perfect. "
        "The beauty of the view stunned the young boy. Two blue fish swam in the tank.",
    ),
    "german": (
        "Im Frühling ist der Himmel blau. Die Kinder spielen auf der Straße, und der Hund läuft im Garten. "
        "Er hat gestern einen langen Brief geschrieben. Wir fahren morgen mit dem Zug nach Berlin.",
        "Der Bäcker backt am Morgen frisches Brot. Sie trinkt gern eine Tasse Kaffee mit Milch. "
        "Auf dem Tisch liegen drei Bücher und ein Heft. Die Katze schläft unter dem Sofa.",
        "Vor dem Haus steht ein alter Baum. Die Nachbarn haben einen neuen Wagen gekauft. "
        "Am Abend gehen wir ins Theater. In der Küche riecht es nach Kuchen.",
    ),
}
"""What the voice of a spoken sample says besides, for attacks that learn from it."""
VOICES: Final = (
    *("en-us", "en-us+f2", "en-us+f4", "en-us+f5", "en-us+m2"),
    *("en-us+m3", "en-us+m5", "en-us+m7", "en-us+croak", "en-us+klatt"),
)
RECORDED: Final = ("librivox-1", "librivox-2", "numbers")
SAMPLES: Final = (*SPOKEN, *RECORDED)


def sound(name: str, rate: int) -> NDArray[np.int16]:
    """A sample of SAMPLES at `rate` Hz, mono."""
    return resampled(*(_recorded(name) if name in RECORDED else speak(*SPOKEN[name])), rate)


@cache
def speak(voice: str, speed: int, pitch: int, text: str) -> tuple[NDArray[np.int16], int]:
    """Samples and rate."""
    command = [program("espeak") or "espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout"]
    return _read(subprocess.run([*command, text], check=True, capture_output=True, timeout=60).stdout)


@cache
def _recorded(name: str) -> tuple[NDArray[np.int16], int]:
    return _read((MEDIA / f"{name}.flac").read_bytes())


def _read(data: bytes) -> tuple[NDArray[np.int16], int]:
    with av.open(io.BytesIO(data)) as file:
        frames = [frame.to_ndarray() for frame in file.decode(audio=0)]
        assert frames[0].dtype == np.int16
        return np.concatenate(frames, axis=1)[0], file.streams.audio[0].rate


def resampled(samples: NDArray[np.int16], old: int, new: int) -> NDArray[np.int16]:
    """The same sound at another rate."""
    if old == new:
        return samples
    common = math.gcd(old, new)
    made = resample_poly(samples.astype(float), new // common, old // common)
    return np.rint(np.clip(made, -32768, 32767)).astype(np.int16)
