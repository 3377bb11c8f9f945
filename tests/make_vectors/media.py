"""Media that name other files: what a demuxer that follows them would open.

Each is a text or a tiny file of boxes; `neighbour.mp4` is the file beside it that nobody may open, and
`127.0.0.1:65535` the address that nobody may call. Nothing of the project is imported, and no program is run.
"""

import json
import struct
from typing import NamedTuple

__all__ = ["ADDRESS", "NEIGHBOUR", "MediaVector", "collect", "files"]

NEIGHBOUR = "neighbour.mp4"
ADDRESS = "127.0.0.1:65535"

# How each kind of text says where the rest is. Absolute names go through the current folder: so they are the
# same on every machine, and do lead to the neighbour.
PLACES = {
    "relative": (NEIGHBOUR, "a file by its name"),
    "absolute": (f"/proc/self/cwd/{NEIGHBOUR}", "a file by an absolute path"),
    "file-url": (f"file:{NEIGHBOUR}", "a file by an address"),
    "http": (f"http://{ADDRESS}/{NEIGHBOUR}", "another server"),
}
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
HLS = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:6\n{}#EXTINF:6,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT6S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">{}</Representation>'
    "</AdaptationSet></Period></MPD>\n"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"


class MediaVector(NamedTuple):
    """One file and its twin."""

    name: str
    description: str
    data: bytes
    follower: str
    """FFmpeg's demuxer that would do what the file asks for."""
    opens: str | None
    """The file that FFmpeg opens when nobody hinders it; None where it is known not to."""
    sniffed: str | None
    """The format that its first bytes show; None for none of ours."""
    expect: str
    """What exporting it does: opaque, demuxed or the error class."""

    @property
    def stem(self):
        return self.name.rpartition(".")[0]

    def twin(self):
        """What stands in NAME.json."""
        return {
            "file": self.name,
            "description": self.description,
            "follower": self.follower,
            "opens": self.opens,
            "sniffed": self.sniffed,
            "expect": self.expect,
        }


def collect():
    """All of them."""
    return [*_texts(), *_disguised(), *_references()]


def files():
    """Name and content of every file, below tests/vectors/."""
    made = {}
    for vector in collect():
        twin = json.dumps(vector.twin(), ensure_ascii=False, indent=2)
        for name, data in ((vector.name, vector.data), (f"{vector.stem}.json", twin.encode() + b"\n")):
            assert f"media/{name}" not in made, name
            made[f"media/{name}"] = data
    return made


def _texts():
    """Playlists and the like that call themselves MP4."""

    def text(name, what, follower, data):
        opens = NEIGHBOUR if NEIGHBOUR in data and ADDRESS not in data else None
        return MediaVector(f"{name}.mp4", what, data.encode(), follower, opens, None, "opaque")

    for place, (url, what) in PLACES.items():
        yield text(f"ffconcat-{place}", f"an ffconcat list that names {what}", "concat", CONCAT.format(url))
        yield text(f"m3u8-{place}", f"a media playlist that names {what}", "hls", HLS.format("", url))
        base = f"<BaseURL>{url}</BaseURL><SegmentBase/>"
        yield text(f"dash-{place}", f"a DASH manifest that names {what}", "dash", DASH.format(base))
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="{NEIGHBOUR}"\n'
    yield text("m3u8-key", "a playlist whose key is a file", "hls", HLS.format(key, "none.ts"))
    start = f'#EXT-X-MAP:URI="{NEIGHBOUR}"\n'
    yield text("m3u8-map", "a playlist whose header bytes are a file", "hls", HLS.format(start, "none.mp4"))
    master = f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{NEIGHBOUR}\n"
    yield text("m3u8-variant", "a master playlist that names a file as a variant", "hls", master)
    list_of_one = (
        f'<SegmentList duration="6"><Initialization sourceURL="{NEIGHBOUR}"/>'
        f'<SegmentURL media="{NEIGHBOUR}"/></SegmentList>'
    )
    yield text("dash-segments", "a DASH manifest with a list of segments", "dash", DASH.format(list_of_one))
    yield text("sdp", "a session description that asks for packets from the network", "sdp", SDP)


def _disguised():
    """Playlists behind bytes that make them look like one of our formats."""
    concat, hls = CONCAT.format(NEIGHBOUR).encode(), HLS.format("", NEIGHBOUR).encode()
    head = box(b"ftyp", b"isom", bytes(4), b"isom")
    yield MediaVector(
        "ffconcat-behind-ftyp.mp4",
        "an ffconcat list behind an MP4's first box",
        head + concat,
        "concat",
        None,
        "mp4",
        "media",
    )
    # An empty ID3v2.4 tag, as packed audio of HLS begins; then one frame of MPEG-1 Layer III and the list.
    sound = b"ID3\4\0\0\0\0\0\0" + b"\xff\xfb\x90\xc0".ljust(417, b"\0") * 2
    yield MediaVector(
        "m3u8-behind-id3.mp3",
        "a playlist behind an ID3 tag and two frames",
        sound + hls,
        "hls",
        None,
        "mp3",
        "demuxed",
    )


def _references():
    """MP4 files whose samples are said to lie in another file (ISO 14496-12, 8.7.2; QuickTime's alias)."""

    path = f"/proc/self/cwd/{NEIGHBOUR}"
    url, http = f"file://{path}\0".encode(), f"http://{ADDRESS}/{NEIGHBOUR}\0".encode()
    for name, what, entry, opens in (
        ("url", "a url entry with a file's address", box(b"url ", bytes(4), url), None),
        ("url-http", "a url entry with another server's", box(b"url ", bytes(4), http), None),
        ("urn", "a urn entry with a location", box(b"urn ", bytes(4), b"urn:x:y\0", url), None),
        ("alias-relative", "an alias to a file beside it", alias(NEIGHBOUR), NEIGHBOUR),
        ("alias-absolute", "an alias with an absolute path", alias(path), NEIGHBOUR),
    ):
        yield MediaVector(f"dref-{name}.mp4", what, film(entry), "mp4", opens, "mp4", "demuxed")


def box(kind, *parts):
    """A box: size, type, content."""
    rest = b"".join(parts)
    return struct.pack(">I4s", 8 + len(rest), kind) + rest


def full(kind, *parts, flags=0):
    """A box with version 0 and flags."""
    return box(kind, struct.pack(">I", flags), *parts)


def alias(path):
    """An alias record as QuickTime writes it: a fixed part, then typed fields, of which 2 is the path."""
    name, data = NEIGHBOUR.encode(), path.encode()
    record = bytes(4) + bytes(10) + b"\4disk".ljust(28, b"\0") + bytes(12)
    record += (bytes([len(name)]) + name).ljust(64, b"\0") + bytes(16) + b"\0\1\0\1" + bytes(16)
    record += struct.pack(">HH", 2, len(data)) + data + b"\0" * (len(data) % 2)
    return box(b"alis", record + b"\xff\xff\0\0")


def film(entry, samples=400):
    """A QuickTime-like MP4: one track of 16-bit sound at 8 kHz, whose data reference is `entry`."""
    head = box(b"ftyp", b"isom", bytes(4), b"isom")
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    described = struct.pack(">6xH8xHHHHI", 1, 1, 16, 0, 0, 8000 << 16)  # dref 1; version 0; mono, 16 bits

    def moov(first):
        table = box(
            b"stbl",
            full(b"stsd", struct.pack(">I", 1), box(b"twos", described)),
            full(b"stts", struct.pack(">III", 1, samples, 1)),
            full(b"stsc", struct.pack(">IIII", 1, 1, samples, 1)),
            full(b"stsz", struct.pack(">II", 2, samples)),
            full(b"stco", struct.pack(">II", 1, first)),
        )
        media = box(
            b"minf", full(b"smhd", bytes(4)), box(b"dinf", full(b"dref", struct.pack(">I", 1), entry)), table
        )
        track = box(
            b"mdia",
            full(b"mdhd", struct.pack(">IIIIHH", 0, 0, 8000, samples, 0x55C4, 0)),
            full(b"hdlr", bytes(4), b"soun", bytes(12), b"\0"),
            media,
        )
        shown = struct.pack(">IIIII8xHHHH", 0, 0, 1, 0, samples, 0, 0, 0x100, 0) + matrix + bytes(8)
        whole = struct.pack(">IIIIIH10x", 0, 0, 8000, samples, 0x10000, 0x100) + matrix
        return box(
            b"moov",
            full(b"mvhd", whole, bytes(24), struct.pack(">I", 2)),
            box(b"trak", full(b"tkhd", shown, flags=7), track),
        )

    sound = struct.pack(f">{samples}h", *(32 * (number % 25) for number in range(samples)))
    first = len(head) + len(moov(0)) + 8
    return head + moov(first) + box(b"mdat", sound)
