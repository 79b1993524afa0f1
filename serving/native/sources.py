"""Which C sources the compiled kernels are of.

The build writes the digest into the library; who loads it compares it with the sources beside it.
`setup.py` runs this file by itself, so it imports the standard library only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parent / "src"


def digest() -> str:
    """Of all C files in `src`, names and bytes."""
    hashed = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]")):
        content = path.read_bytes()
        hashed.update(f"{path.name} {len(content)}\n".encode())
        hashed.update(content)
    return hashed.hexdigest()
