"""JSON that carries a digest of itself, so that what was changed or cut off since it was written is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# The field of the digest; also in the metadata of files of tensors.
DIGEST = "digest"


def sealed(content: Mapping[str, Any]) -> str:
    """A line of JSON with a digest of the rest in it."""
    return json.dumps({**content, DIGEST: _digest(content)})


def unsealed(text: str) -> dict[str, Any]:
    """What was sealed.

    Raises:
        ValueError: the text is not what `sealed` wrote.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop(DIGEST, None) != _digest(content):
        raise ValueError("its content is not what was written")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
