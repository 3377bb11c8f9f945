"""Tokens do not give the media back: what attacks on them reach, measured, and held to docs/SECURITY.md.

The attacks are in `attacks.py`. Speech is given at 24 kHz, where the frames of both profiles are as short as
they get. The last tests are about what tokens do give away.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from numpy.typing import NDArray

import attacks
from attacks import Floats, Patchwork, Regression, Spectra
from harmony4.crypto.token import TokenRecord
from harmony4.tokenize.audio import DETAIL, PROFILES, STRUCTURE, AudioToken, Profile, _Analysis
from harmony4.tokenize.demux import demux
from harmony4.tokenize.samples import SoundFormat
from harmony4.tokenize.video import VideoTokenizer
from needs import BUNNY, ROOT, needs_espeak
from speech import LESSONS, SAMPLES, SPOKEN, VOICES, resampled, sound, speak

pytestmark = needs_espeak

RATE = 24_000
LIMIT = 0.40
"""STOI that both plain attacks on `structure` must stay below."""
HALVED = replace(STRUCTURE, span=8192)
"""What `structure` would be with frames half as long."""
SOME = ("american", "french", "librivox-2")
"""For what takes long."""
each_sample = pytest.mark.parametrize("name", SAMPLES)
Pairs = list[tuple[Spectra, Floats]]


def tokens(samples: NDArray[np.int16], profile: Profile, rate: int = RATE) -> list[AudioToken]:
    analysis = _Analysis(profile, SoundFormat(rate, 1, "s16le", True, 0), each=False)
    lanes = samples.astype(np.int32)[:, None] << 8
    return [*analysis.feed(lanes), *analysis.finish()]


@cache
def heard(name: str, profile: Profile = STRUCTURE) -> Spectra:
    return attacks.spectra(tokens(sound(name, RATE), profile))


@cache
def original(name: str) -> Floats:
    return sound(name, attacks.RATE).astype(float)


def stoi(name: str, made: Floats) -> float:
    return attacks.intelligibility(original(name), made)


def extended(name: str, made: Floats) -> float:
    return attacks.intelligibility(original(name), made, extended=True)


@cache
def oscillators(name: str, profile: Profile) -> Floats:
    """The first plain attack."""
    return attacks.oscillators(heard(name, profile))


@cache
def griffin_lim(name: str, profile: Profile) -> Floats:
    """The second: with spectra about as long as the frames."""
    window = 2 ** round(np.log2(heard(name, profile).seconds * attacks.RATE))
    return attacks.griffin_lim(heard(name, profile), window=window)


PLAIN = {"oscillators": oscillators, "Griffin-Lim": griffin_lim}


@cache
def plain(attack: str, profile: Profile) -> list[float]:
    """STOI of all samples."""
    return [stoi(name, PLAIN[attack](name, profile)) for name in SAMPLES]


# -- the two plain attacks


@pytest.mark.parametrize("attack", PLAIN)
def test_structure_does_not_give_speech_back(attack: str) -> None:
    assert max(plain(attack, STRUCTURE)) < LIMIT


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_nor_at_other_rates(rate: int) -> None:
    """Where frames are longer: 512 and 372 ms."""
    for name in SOME:
        known = attacks.spectra(tokens(sound(name, rate), STRUCTURE, rate))
        for made in (attacks.oscillators(known), attacks.griffin_lim(known, window=4096)):
            assert stoi(name, made) < LIMIT, name
            assert extended(name, made) < 0.15, name


@pytest.mark.parametrize("attack", PLAIN)
def test_detail_does(attack: str) -> None:
    """So the attacks work, and the test above can fail."""
    both = zip(plain(attack, STRUCTURE), plain(attack, DETAIL), strict=True)
    assert all(less + 0.1 < more > LIMIT for less, more in both)


def test_why_frames_are_so_long() -> None:
    """With frames half as long, the same attacks would pass the limit."""
    assert max(max(plain(attack, HALVED)) for attack in PLAIN) > LIMIT


def test_what_a_profile_calls_itself() -> None:
    for profile in PROFILES.values():
        assert profile.structure_only == (max(max(plain(attack, profile)) for attack in PLAIN) < LIMIT)


# -- cleverer ones


def variants(name: str, profile: Profile) -> dict[str, Callable[[], Floats]]:
    """Everything that was tried which needs nothing but the tokens."""
    known = heard(name, profile)
    found: dict[str, Callable[[], Floats]] = {}
    for curve in ("hold", "cosine", "log"):
        found[f"oscillators, {curve}"] = partial(attacks.oscillators, known, curve=curve)
    for gain, guess in attacks.GAINS.items():
        found[f"oscillators, {gain}"] = partial(attacks.oscillators, known, guess(known))
    found["partials"] = partial(attacks.oscillators, known, merge=True)
    for window in (512, 1024, 2048):
        found[f"Griffin-Lim {window}"] = partial(attacks.griffin_lim, known, window=window, rounds=20)
    found["vocoder"] = partial(attacks.filled, known)
    return found


@cache
def pairs(name: str, profile: Profile) -> Pairs:
    """Recordings that an attack may learn from, and their tokens: more of the same voice, if there is."""
    if name in LESSONS:
        spoken = SPOKEN[name]
        lessons = [speak(*spoken._replace(text=text)) for text in LESSONS[name]]
        return [
            (
                attacks.spectra(tokens(resampled(samples, rate, RATE), profile)),
                resampled(samples, rate, attacks.RATE).astype(float),
            )
            for samples, rate in lessons
        ]
    return [(heard(other, profile), original(other)) for other in SAMPLES if other != name]


def learned(name: str, profile: Profile) -> dict[str, Callable[[], Floats]]:
    """Attacks that have learned from other recordings."""
    known = heard(name, profile)
    return {
        "regression": lambda: Regression.learn(pairs(name, profile)).render(known),
        "patchwork": lambda: Patchwork.learn(pairs(name, profile)).render(known),
    }


@cache
def clever(name: str, profile: Profile) -> dict[str, tuple[float, float]]:
    """Attack -> STOI and extended STOI."""
    tried = variants(name, profile) | learned(name, profile)
    if profile is DETAIL:  # the best ones are enough
        tried = learned(name, profile)
    made = {attack: make() for attack, make in tried.items()}
    return {attack: (stoi(name, one), extended(name, one)) for attack, one in made.items()}


@each_sample
def test_nothing_does_better_than_what_knows_nothing(name: str) -> None:
    """The plain measure has a floor: what knows nothing at all of the original reaches it, too."""
    nothing = stoi(name, attacks.steady(len(original(name))))
    for attack, (plain_stoi, _) in clever(name, STRUCTURE).items():
        assert plain_stoi < nothing + 0.05, attack


@each_sample
def test_the_extended_measure_finds_little(name: str) -> None:
    """Its floor is 0."""
    length = len(original(name))
    for made in (attacks.white(length), attacks.steady(length)):
        assert abs(extended(name, made)) < 0.05
    for attack, (_, extended_stoi) in clever(name, STRUCTURE).items():
        assert extended_stoi < 0.15, attack


@each_sample
def test_learning_helps_with_detail(name: str) -> None:
    """So the attacks that learn work."""
    assert max(value for _, value in clever(name, DETAIL).values()) > 0.3
    best = {
        profile: max(value for _, value in clever(name, profile).values()) for profile in (STRUCTURE, DETAIL)
    }
    assert best[DETAIL] > best[STRUCTURE] + 0.15


# -- what tokens do give away


def test_loudness_is_worth_leaving_out() -> None:
    """With each frame's loudness, `detail` would give far more."""
    gains = []
    for name in SOME:
        samples, frame, hop = sound(name, RATE).astype(float), 1024, 512
        padded = np.concatenate([samples, np.zeros(frame)])
        known = heard(name, DETAIL)
        loud = np.array([np.abs(padded[i * hop : i * hop + frame]).mean() for i in range(len(known.levels))])
        gains.append(stoi(name, attacks.oscillators(known, loud)) - stoi(name, oscillators(name, DETAIL)))
    assert np.mean(gains) > 0.1


def offset(name: str, parts: int) -> Spectra:
    """Tokens of the same sound begun at several places of a frame, put together."""
    samples, frame = sound(name, RATE), STRUCTURE.shape(RATE).frame
    shifts = [frame * part // parts for part in range(parts)]
    several = [
        attacks.spectra(tokens(np.concatenate([np.zeros(shift, np.int16), samples]), STRUCTURE))
        for shift in shifts
    ]
    return attacks.together(several, [shift / RATE for shift in shifts])


def test_tokens_of_several_cuts_add_up() -> None:
    one, four = (
        np.mean([extended(name, attacks.oscillators(offset(name, parts))) for name in SOME])
        for parts in (1, 4)
    )
    assert four > 2 * one
    assert four < 0.3


@cache
def recognised(profile: Profile) -> float:
    """Share of voices that are told apart by other words of theirs."""
    portraits = [
        [attacks.portrait(tokens(resampled(*speak(voice, 150, 50, text), RATE), profile)) for voice in VOICES]
        for text in LESSONS["american"][:2]
    ]
    return (attacks.identified(*portraits) + attacks.identified(*reversed(portraits))) / 2


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_voices_are_recognised(profile: Profile) -> None:
    """Not what anybody wants, but so it is, and docs/SECURITY.md says so."""
    assert recognised(profile) > 3 / len(VOICES)


def test_a_video_token_holds_no_byte_of_the_media() -> None:
    """Times, sizes, places and a digest: other pictures of the same make differ in digests alone."""
    data = BUNNY.read_bytes()
    other = bytearray(data)
    with demux(io.BytesIO(data), "mp4") as medium:
        for packet in medium:  # FFmpeg looks at where a picture begins, so that stays
            assert packet.pos is not None
            behind = slice(packet.pos + packet.size // 2, packet.pos + packet.size)
            other[behind] = bytes(byte ^ 0x55 for byte in data[behind])
    records, again = (
        [token.serialize() for token in VideoTokenizer(block_size=4096).tokens(one)] for one in (data, other)
    )
    assert [one[:64] + one[96:] for one in again] == [one[:64] + one[96:] for one in records]
    changed = [one[64:96] != two[64:96] for one, two in zip(records, again, strict=True)]
    assert sum(changed) > 0.9 * len(records) > 200
    for record in map(TokenRecord.unpack, records):
        block = data[record.offset : record.offset + record.size]
        assert record.digest == hashlib.sha256(block).digest()
        assert record.tag == bytes(32)


# -- docs/SECURITY.md


def figures(profile: str, attack: str) -> tuple[float, float]:
    """The highest STOI and extended STOI of all samples."""
    if profile == "nothing":
        make = {"white noise": attacks.white, "steady tones": attacks.steady}[attack]
        made = {name: make(len(original(name))) for name in SAMPLES}
    elif attack in PLAIN:
        made = {name: PLAIN[attack](name, PROFILES[profile]) for name in SAMPLES}
    else:
        both = [clever(name, PROFILES[profile])[attack] for name in SAMPLES]
        return max(one for one, _ in both), max(one for _, one in both)
    return max(stoi(*one) for one in made.items()), max(extended(*one) for one in made.items())


TEXT = (ROOT / "docs" / "SECURITY.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|", TEXT, re.MULTILINE)


def test_the_table_is_there() -> None:
    assert {profile for profile, *_ in TABLE} == {"nothing", *PROFILES}
    assert {("structure", attack) for attack in PLAIN} <= {(profile, attack) for profile, attack, *_ in TABLE}


@pytest.mark.parametrize(("profile", "attack", "plain_stoi", "extended_stoi"), TABLE)
def test_the_documented_figures(profile: str, attack: str, plain_stoi: str, extended_stoi: str) -> None:
    """Within what another version of espeak-ng may change."""
    found = figures(profile, attack)
    assert found == pytest.approx((float(plain_stoi), float(extended_stoi)), abs=0.06)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_documented_share_of_voices(profile: Profile) -> None:
    said = re.search(rf"`{profile.name}`: (\d+) % of", TEXT)
    assert said
    assert recognised(profile) == pytest.approx(int(said[1]) / 100, abs=0.15)
