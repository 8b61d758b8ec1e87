"""Blocks: data inside a page that its script reads; a browser runs and shows none of them."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Block:
    """One block, found by its name."""

    name: str
    text: str
    """JSON, or base64 of a picture."""
    kind: str
    """MIME type."""


def of_json(name: str, value: Any) -> Block:
    """Return a value as JSON that cannot end its block: no character of it has a meaning in HTML."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Block(name, text, "application/json")
