"""What the application holds, by typed keys."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from harmony4.server.config import Config
from harmony4.server.folder.catalogue import Catalogue
from harmony4.server.folder.library import Library
from harmony4.server.guard.guard import Guard
from harmony4.server.insight.tally import Shares, Tally
from harmony4.server.intake.desk import Desk
from harmony4.server.intake.finishing import Finisher
from harmony4.server.masking.keys import Keyring
from harmony4.server.reading.buffers import Buffers
from harmony4.server.reading.express import Express
from harmony4.server.serving.forwarded import Crowd
from harmony4.server.state import State
from harmony4.server.streams.turns import Turns

if TYPE_CHECKING:
    from harmony4.server.folder.scrubbing import Findings
    from harmony4.server.intake.events import Events
    from harmony4.server.players.routes import Playlists
    from harmony4.server.streams.outlet import Outlet

__all__ = [
    "BUFFERS",
    "CATALOGUE",
    "CONFIG",
    "CROWD",
    "DESK",
    "EVENTS",
    "EXPRESS",
    "FINISHER",
    "GUARD",
    "KEEPING",
    "KEYRING",
    "LIBRARY",
    "LIES",
    "OUTLETS",
    "PLAYLISTS",
    "SCRUB",
    "SHARES",
    "STATE",
    "STATUS",
    "TALLY",
    "TURNS",
    "Status",
]


@dataclass(slots=True)
class Status:
    """Whether the server, or this worker of it, is on its way out."""

    leaving: bool = False
    """It is to end; everything goes on."""
    stopping: bool = False
    """What runs comes to its end, and no more."""
    replaced: bool = False
    """Others go on: it is this worker that ends, not the server."""
    until: float = 0.0
    """When that must be over, on the loop's clock."""

    @property
    def ready(self) -> bool:
        """What `/ready` says of it."""
        return self.replaced or not self.leaving

    def takes(self, now: float, patience: float) -> bool:
        """Whether it takes uploads: a worker that is replaced does while half of its `patience` is left."""
        return not self.stopping or (self.replaced and self.until - now > patience / 2)


BUFFERS: Final = web.AppKey("buffers", Buffers)
CONFIG: Final = web.AppKey("config", Config)
LIBRARY: Final = web.AppKey("library", Library)
LIES: Final[web.AppKey[str | None]] = web.AppKey("lies")
"""The route that lies, in a demonstration; None everywhere else."""
CROWD: Final = web.AppKey("crowd", Crowd)
DESK: Final = web.AppKey("desk", Desk)
EVENTS: Final[web.AppKey[Events]] = web.AppKey("events")
FINISHER: Final = web.AppKey("finisher", Finisher)
EXPRESS: Final = web.AppKey("express", Express)
GUARD: Final = web.AppKey("guard", Guard)
CATALOGUE: Final = web.AppKey("catalogue", Catalogue)
STATE: Final = web.AppKey("state", State)
STATUS: Final = web.AppKey("status", Status)
KEEPING: Final[web.AppKey[set[asyncio.Task[None]]]] = web.AppKey("keeping")
"""What goes on without anybody who waits: tokens that are kept for others to read."""
KEYRING: Final = web.AppKey("keyring", Keyring)
SCRUB: Final[web.AppKey[Findings]] = web.AppKey("scrub")
SHARES: Final = web.AppKey("shares", Shares)
TALLY: Final = web.AppKey("tally", Tally)
OUTLETS: Final[web.AppKey[set[Outlet]]] = web.AppKey("outlets")
"""Clients of streams of tokens."""
TURNS: Final = web.AppKey("turns", Turns)
PLAYLISTS: Final[web.AppKey[Playlists]] = web.AppKey("playlists")
