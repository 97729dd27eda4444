"""The two domains. A file of their own, since scoring takes nothing else of the configuration."""

from __future__ import annotations

from typing import Literal

Domain = Literal["natural", "ads"]
DOMAINS: tuple[Domain, ...] = ("natural", "ads")
