"""Messages to the page's tools, as they come in: what is none is refused before the protocol's library sees it.

That library answers with everything that a message might have been instead, and logs what it was sent, whole.
"""

from __future__ import annotations

from typing import Any

from sdic_plugin.demo.asgi import Refused, parse_object

DEEPEST = 16
"""Nesting of a message; no call needs more than six."""

SMALL_BYTES = 64 << 10
"""Largest message but for calls of tools, which may hold a photo."""

KINDS = {"method": str, "params": dict, "result": dict, "error": dict, "id": str | int}
CALL_KINDS = {"name": str, "arguments": dict, "_meta": dict}


def fits_protocol(content: bytes) -> bool:
    """Whether a body is one message of JSON-RPC, as the Model Context Protocol speaks, no larger than needed."""
    try:
        body = parse_object(content)
    except Refused:
        return False
    if body.get("jsonrpc") != "2.0" or not body.keys() & {"method", "result", "error"} or not _are(body, KINDS):
        return False
    if depth_of(body) > DEEPEST or ("id" not in body and "method" not in body):
        return False
    return len(content) <= SMALL_BYTES or _is_call(body)


def _is_call(body: dict[str, Any]) -> bool:
    """Whether a message calls a tool and says nothing else."""
    params = body.get("params")
    if body.get("method") != "tools/call" or "id" not in body or not isinstance(params, dict):
        return False
    return params.keys() <= CALL_KINDS.keys() and _are(params, CALL_KINDS) and len(str(body["id"])) < SMALL_BYTES


def _are(values: dict[str, Any], kinds: dict[str, Any]) -> bool:
    return all(isinstance(values[key], kind) for key, kind in kinds.items() if key in values)


def depth_of(value: Any) -> int:
    """Nesting of a JSON value, counted no further than is too deep."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        inner = [one for one in level if isinstance(one, dict | list)]
        level = [each for one in inner for each in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth
