"""`/openapi.json`: the description of the routes (OpenAPI 3.1). A test holds it against the application's
routes."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from harmony4.server.guard.policy import needed_scope
from harmony4.server.guard.sessions import COOKIE
from harmony4.server.openapi import bringing, masking, reading, streams
from harmony4.server.openapi.parts import problems
from harmony4.server.openapi.schemas import SCHEMAS

__all__ = ["document", "routes"]


def routes() -> list[web.RouteDef]:
    """The route of this module."""
    data = json.dumps(document(), indent=1).encode("ascii")

    async def get_document(request: web.Request) -> web.Response:
        return web.Response(
            body=data, headers={"Content-Type": "application/json", "Cache-Control": "no-cache"}
        )

    return [web.get("/openapi.json", get_document)]


def document() -> dict[str, Any]:
    """The description as a JSON value."""
    paths = reading.paths()
    for more in (bringing.paths(), streams.paths(), masking.paths()):
        for path, item in more.items():
            paths[path] = item | paths.get(path, {})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HarmonyØ4",
            "version": "1",
            "description": "H4MK containers over HTTP: byte ranges, seeking, facts. Times are microseconds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _guarded(paths),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`harmony4 token add`"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "signature": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "sig",
                    "description": "With `exp` and perhaps `ip`: `harmony4 sign-url`. For GET and HEAD",
                },
            },
        },
    }


def _guarded(paths: dict[str, Any]) -> dict[str, Any]:
    """The paths with what the guard adds: who may, and its problems."""
    for path, item in paths.items():
        for method, operation in item.items():
            responses = operation["responses"]
            codes = ["421"]
            scope = needed_scope(method.upper(), path)
            if scope is not None:
                # Only where the server's mode asks for it, so nothing (`{}`) may do as well.
                operation["security"] = [{}, {"token": [scope]}, {"session": [scope]}]
                operation["security"] += [{"signature": []}] if method in ("get", "head") else []
                codes += ["401", "403", "429"]
            for code in codes:
                responses.setdefault(code, problems(code)[code])
            operation["responses"] = dict(sorted(responses.items()))
    return paths
