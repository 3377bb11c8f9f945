"""Small real media, made once by ffmpeg and espeak-ng with bit-exact flags and kept in the temporary folder.

    from media_factory import media
    path = media("plain.mp4")

Everything is 6 s long, 160x90 at 25 frames/s with a 440 Hz tone unless its recipe says otherwise. Mark tests
that use it with `needs_ffmpeg` (and `needs_espeak` for speech.wav).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from needs import program

EXACT: Final = "-fflags +bitexact -flags:v +bitexact -flags:a +bitexact -map_metadata -1"
VIDEO: Final = "-f lavfi -i testsrc2=s=160x90:r=25:d=6"
AUDIO: Final = "-f lavfi -i sine=f=440:r=48000:d=6"
H264: Final = "-c:v libx264 -threads 1 -preset veryfast -g 25 -bf 2"
CLOSED: Final = f"{H264} -x264-params open-gop=0:scenecut=0"
OPEN: Final = f"{H264} -x264-params open-gop=1:scenecut=0"
VP8: Final = "-c:v libvpx -deadline realtime -cpu-used 8 -threads 1 -g 25 -b:v 200k"
TEXT: Final = base64.b64encode(b"1\n00:00:00,500 --> 00:00:01,500\nneither seen nor heard\n").decode()
COPY: Final = "-c copy"
FAST: Final = "-movflags +faststart"
LARGE: Final = (  # noise, so that no two seconds are alike and it does not compress: 30 MB in 8 s
    "-f lavfi -i testsrc2=s=640x360:r=25:d=8,noise=alls=25:allf=t:all_seed={seed},format=yuv420p "
    "-f lavfi -i sine=f=440:r=48000:d=8 -c:v libx264 -threads 1 -preset ultrafast -qp 22 -g 25"
)
NUMBERED: Final = (  # each picture shows its number: bit n of it in the n-th sixteenth of the width
    "-f lavfi -i color=s=320x96:r=25:d={seconds},format=gray,"
    "geq=lum=if(mod(floor(N/pow(2\\,floor(X/20)))\\,2)\\,235\\,16),format=yuv420p"
)
TONE: Final = "-f lavfi -i sine=f={tone}:r=48000:d={seconds}"
STEREO: Final = "-f lavfi -i aevalsrc=exprs=0.7*sin(2*PI*440*t)*sin(t*3)|0.4*sin(2*PI*997*t):s=48000:d=2"
MONO: Final = "-f lavfi -i aevalsrc=exprs=0.5*sin(2*PI*500*t):s=44100:d=1"
CHANNELS: Final = "-f lavfi -i aevalsrc=s=48000:d=1:exprs=" + "|".join(
    f"0.{1 + n % 4}*sin(2*PI*{400 + 90 * n}*t)" for n in range(12)
)
EIGHT: Final = "-af pan=7.1|" + "|".join(f"c{n}=c{n}" for n in range(8))
FRAGMENTS: Final = "-movflags +empty_moov+default_base_moof"

# name -> ffmpeg's arguments; {name} is another of these, made first
RECIPES: Final[dict[str, str]] = {
    # MP4
    "plain.mp4": f"{VIDEO} {AUDIO} {CLOSED} -c:a aac {EXACT} {FAST}",
    "opengop.mp4": f"{VIDEO} {AUDIO} {OPEN} -c:a aac {EXACT} {FAST}",
    "moovend.mp4": f"-i {{plain.mp4}} {COPY} {EXACT}",
    "fragmented.mp4": f"-i {{plain.mp4}} {COPY} {EXACT} {FRAGMENTS}+frag_keyframe",
    "fragments-by-time.mp4": f"-i {{plain.mp4}} {COPY} {EXACT} {FRAGMENTS} -frag_duration 300000",
    "single-key.mp4": f"{VIDEO} {AUDIO} -c:v libx264 -threads 1 -preset veryfast -g 999 {EXACT} {FAST}",
    "edited.mp4": f"-ss 1.5 -i {{plain.mp4}} {COPY} {EXACT} {FAST}",
    # numbered pictures, 20 s, two seconds a group; B-frames, and no time before 0 on any clock
    "numbered.mp4": (
        f"{NUMBERED.format(seconds=20)} {TONE.format(tone=440, seconds=20)} -c:v libx264 -threads 1 "
        f"-preset veryfast -g 50 -bf 2 -x264-params scenecut=0 -c:a aac {EXACT} {FAST}"
    ),
    "numbered-fragments.mp4": (f"-i {{numbered.mp4}} {COPY} {EXACT} {FRAGMENTS}+delay_moov+frag_keyframe"),
    "numbered-video.mp4": (
        f"-i {{numbered.mp4}} -map 0:v {COPY} {EXACT} {FRAGMENTS}+delay_moov+frag_keyframe"
    ),
    "numbered-audio.mp4": (
        f"-i {{numbered.mp4}} -map 0:a {COPY} {EXACT} {FRAGMENTS}+delay_moov -frag_duration 2000000"
    ),
    "second-audio.mp4": (
        f"{TONE.format(tone=880, seconds=25)} -c:a aac {EXACT} {FRAGMENTS}+delay_moov -frag_duration 2000000"
    ),
    "numbered-late-audio.mp4": (
        f"-i {{numbered.mp4}} -itsoffset 4.5 -i {{numbered.mp4}} -map 0:v -map 1:a {COPY} {EXACT}"
    ),
    "numbered-late-video.mp4": (
        f"-itsoffset 4.5 -i {{numbered.mp4}} -i {{numbered.mp4}} -map 0:v -map 1:a {COPY} {EXACT}"
    ),
    "numbered.ts": f"-i {{numbered.mp4}} {COPY} {EXACT} -muxdelay 0",
    "numbered.webm": f"{NUMBERED.format(seconds=20)} {VP8.replace('-g 25', '-g 50')} {EXACT}",
    "numbered-variable.mp4": (
        f"{NUMBERED.format(seconds=20)} -vf select=not(mod(n\\,7))+not(mod(n\\,3)) -fps_mode vfr {CLOSED} "
        f"{EXACT} {FRAGMENTS}+delay_moov+frag_keyframe"
    ),
    "late-audio.mp4": f"-i {{plain.mp4}} -itsoffset 2.5 -i {{plain.mp4}} -map 0:v -map 1:a {COPY} {EXACT}",
    "late-video.mp4": (
        f"-itsoffset 2.5 -i {{plain.mp4}} -i {{plain.mp4}} -map 0:v -map 1:a {COPY} {EXACT} {FAST}"
    ),
    "two-videos.mp4": f"-i {{opengop.mp4}} -i {{plain.mp4}} -map 0:v -map 1:v {COPY} {EXACT}",
    "variable.mp4": (
        f"{VIDEO} -vf select=not(mod(n\\,7))+not(mod(n\\,3)) -fps_mode vfr {CLOSED} {EXACT} {FAST}"
    ),
    "audio.m4a": f"{AUDIO} -c:a aac {EXACT}",
    "subtitled.mp4": f"-i {{plain.mp4}} -f srt -i data:text/plain;base64,{TEXT} {COPY} -c:s mov_text {EXACT}",
    "large.mp4": f"{LARGE.format(seed=1)} -c:a aac {EXACT} {FAST}",
    "large-moovend.mp4": f"{LARGE.format(seed=2)} -c:a aac {EXACT}",
    "one-frame.mp4": f"{VIDEO} -frames:v 1 {CLOSED} {EXACT}",
    # Matroska and WebM; the "live" ones went through a pipe: unknown sizes, no index
    "plain.mkv": f"-i {{opengop.mp4}} {COPY} {EXACT}",
    "live.mkv": f"-i {{plain.mp4}} {COPY} {EXACT} -live 1 -f matroska pipe:1",
    "mixed-clusters.mkv": f"-i {{plain.mp4}} {COPY} {EXACT} -cluster_time_limit 700 -f matroska pipe:1",
    "plain.webm": f"{VIDEO} {AUDIO} {VP8} -c:a libopus {EXACT}",
    "live.webm": f"-i {{plain.webm}} {COPY} {EXACT} -live 1 -f webm pipe:1",
    "audio.webm": f"-i {{plain.webm}} -map 0:a {COPY} {EXACT}",
    "subtitled.mkv": f"-i {{plain.mp4}} -f srt -i data:text/plain;base64,{TEXT} {COPY} -c:s srt {EXACT}",
    "subtitles.mkv": f"-f srt -i data:text/plain;base64,{TEXT} -c:s srt {EXACT}",
    # MPEG-TS
    "plain.ts": f"-i {{plain.mp4}} {COPY} {EXACT}",
    "opengop.ts": f"-i {{opengop.mp4}} {COPY} {EXACT}",  # parameter sets only before the IDR pictures
    "broadcast.ts": f"{VIDEO} {AUDIO} {OPEN} -c:a aac {EXACT}",  # before each keyframe
    "plain.m2ts": f"-i {{plain.mp4}} {COPY} {EXACT} -mpegts_m2ts_mode 1",
    "wrap.ts": f"-i {{plain.mp4}} {COPY} {EXACT} -output_ts_offset 95440.5",  # wraps after 3.2 s
    "late.ts": f"-i {{plain.mp4}} {COPY} {EXACT} -output_ts_offset 5000",
    "audio.ts": f"-i {{plain.mp4}} -map 0:a {COPY} {EXACT}",
    # sound
    "tone.mp3": f"{AUDIO} -c:a libmp3lame -metadata title=tone",
    "bare.mp3": f"{AUDIO} -c:a libmp3lame -write_xing 0 -id3v2_version 0 {EXACT}",
    "cover.mp3": (
        f"-i {{tone.mp3}} {VIDEO} -map 0 -map 1 -c:a copy -c:v png -frames:v 1 -disposition:v attached_pic "
        f"{EXACT}"
    ),
    "tone.flac": f"{AUDIO} -c:a flac {EXACT}",
    "tone.wav": f"{AUDIO} -c:a pcm_s16le {EXACT}",
    "opus.ogg": f"{AUDIO} -c:a libopus {EXACT}",
    "vorbis.ogg": f"{AUDIO} -c:a libvorbis {EXACT}",
    "theora.ogv": f"{VIDEO} {AUDIO} -c:v libtheora -g 25 -c:a libvorbis {EXACT}",
    # sound to decode: stereo, 2 s, all from the same samples
    "stereo.wav": f"{STEREO} -c:a pcm_s16le {EXACT}",
    "stereo.m4a": f"-i {{stereo.wav}} -c:a aac {EXACT} {FAST}",
    "stereo-moovend.m4a": f"-i {{stereo.m4a}} {COPY} {EXACT}",
    "stereo.ts": f"-i {{stereo.wav}} -c:a aac {EXACT}",
    "stereo.mp3": f"-i {{stereo.wav}} -c:a libmp3lame {EXACT}",
    "stereo.flac": f"-i {{stereo.wav}} -c:a flac {EXACT}",
    "stereo.ogg": f"-i {{stereo.wav}} -c:a libvorbis {EXACT}",
    "stereo.webm": f"-i {{stereo.wav}} -c:a libopus {EXACT}",
    "stereo-mp2.ts": f"-i {{stereo.wav}} -c:a mp2 {EXACT}",
    "stereo-ac3.ts": f"-i {{stereo.wav}} -c:a ac3 {EXACT}",
    "stereo-eac3.mkv": f"-i {{stereo.wav}} -c:a eac3 {EXACT}",
    "stereo-alac.m4a": f"-i {{stereo.wav}} -c:a alac {EXACT}",
    "stereo-wavpack.mkv": f"-i {{stereo.wav}} -c:a wavpack {EXACT}",
    "stereo-tta.mkv": f"-i {{stereo.wav}} -c:a tta {EXACT}",
    "stereo-truehd.mkv": f"-i {{stereo.wav}} -c:a truehd -strict -2 {EXACT}",
    "stereo-adpcm.wav": f"-i {{stereo.wav}} -c:a adpcm_ms {EXACT}",
    "stereo-alaw.wav": f"-i {{stereo.wav}} -c:a pcm_alaw {EXACT}",
    "stereo-s24.mkv": f"{STEREO} -c:a pcm_s24le {EXACT}",
    "stereo-f32.mkv": f"{STEREO} -c:a pcm_f32le {EXACT}",
    "stereo-f64.mkv": f"{STEREO} -c:a pcm_f64le {EXACT}",
    "stereo-s64.mkv": f"{STEREO} -c:a pcm_s64le {EXACT}",
    "speech.m4a": f"-i {{speech.wav}} -c:a aac {EXACT}",
    "speech.mp3": f"-i {{speech.wav}} -c:a libmp3lame {EXACT}",
    "mono.ts": f"{MONO} -c:a aac {EXACT}",
    "stereo-bare.mp3": f"-i {{stereo.wav}} -c:a libmp3lame -write_xing 0 -id3v2_version 0 {EXACT}",
    "mono-bare.mp3": f"{MONO} -c:a libmp3lame -write_xing 0 -id3v2_version 0 {EXACT}",
    "surround.m4a": f"{CHANNELS} {EIGHT} -c:a aac {EXACT}",
    "surround.flac": f"{CHANNELS} {EIGHT} -c:a flac {EXACT}",
    "twelve.ogg": f"{CHANNELS} -c:a libopus -mapping_family 255 {EXACT}",
    "silence.flac": f"-f lavfi -i anullsrc=r=8000:cl=mono:d=3600 -c:a flac {EXACT}",
    "two-sounds.mkv": (
        f"{VIDEO} -i {{stereo.flac}} -i {{mono.ts}} -map 0 -map 1 -map 2 {CLOSED} -c:a copy {EXACT}"
    ),
    "silent.ts": f"{VIDEO} {CLOSED} {EXACT}",
}

PLAIN: Final = (  # one of each kind, for tests that walk through all formats
    *("plain.mp4", "opengop.mp4", "moovend.mp4", "fragmented.mp4", "fragments-by-time.mp4", "audio.m4a"),
    *("plain.mkv", "live.mkv", "mixed-clusters.mkv", "plain.webm", "live.webm", "audio.webm"),
    *("subtitled.mp4", "subtitled.mkv"),
    *("plain.ts", "opengop.ts", "plain.m2ts", "audio.ts"),
    *("tone.mp3", "bare.mp3", "tone.flac", "tone.wav", "opus.ogg", "vorbis.ogg", "theora.ogv"),
)


def media(name: str) -> Path:
    """The path of a medium of RECIPES, or of speech.wav (espeak-ng, 22.05 kHz mono)."""
    path = _folder() / name
    if not path.exists():
        # Written beside its place and moved there: tests may run in several processes.
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / name
            _speak(made) if name == "speech.wav" else _record(name, made)
            made.replace(path)
    return path


def probe(path: Path, *entries: str, stream: str = "v:0") -> list[dict[str, Any]]:
    """ffprobe's packets of one stream: an independent answer to where keyframes are."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-select_streams", stream]
    command += ["-show_entries", "packet=" + ",".join(entries or ("pts_time", "pos", "flags")), str(path)]
    out = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    return json.loads(out)["packets"]


def key_times(path: Path, stream: str = "v:0") -> list[Fraction]:
    """PTS in s of the key packets that ffprobe shows, in reading order."""
    packets = probe(path, "pts_time", "flags", stream=stream)
    return [Fraction(one["pts_time"]) for one in packets if "K" in one["flags"] and "D" not in one["flags"]]


def _folder() -> Path:
    recipes = hashlib.sha256(json.dumps(RECIPES).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"harmony4-media-{os.getuid()}-{recipes}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _record(name: str, made: Path) -> None:
    command = [program("ffmpeg") or "ffmpeg", "-v", "error", "-nostdin", "-y"]
    words = RECIPES[name].split()
    command += [str(media(word[1:-1])) if word.startswith("{") else word for word in words]
    piped = command[-1] == "pipe:1"
    with made.open("wb") as out:
        subprocess.run(command if piped else [*command, str(made)], check=True, stdout=out, timeout=120)


def _speak(made: Path) -> None:
    text = "The quick brown fox jumps over the lazy dog. Structure before meaning, time is explicit."
    command = [program("espeak") or "espeak-ng", "-v", "en", "-s", "150", "-w", str(made), text]
    subprocess.run(command, check=True, timeout=60)
