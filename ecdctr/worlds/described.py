"""What `simulate` wrote beside the days of a world: its settings, seed and code.

Apart from `simulate`, whose digest is part of what it writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ecdctr.errors import ConfigError, first_line

NAME = "world.json"


def description(root: Path) -> dict[str, Any]:
    """Return what `simulate` wrote of the world in a folder; nothing where it wrote nothing.

    Raises ConfigError for one that cannot be read: a disk, a person, or a `simulate` that was
    killed while it wrote leaves one.
    """
    path = root / NAME
    try:
        described = json.loads(path.read_bytes())
        if not isinstance(described, dict):
            raise ValueError("it is not what was written")
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        said = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(
            f"{path} is damaged ({said}), so that nothing says which world lies there; bring it "
            f"back from a copy, or delete {root} and simulate the world again."
        ) from None
    return described
