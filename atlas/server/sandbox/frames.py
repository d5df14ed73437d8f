"""What the processes that answer SQL and their server say to each other."""

from __future__ import annotations

import struct

FRAME = struct.Struct(">cQ")  # kind, length of what follows
