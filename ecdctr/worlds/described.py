"""What `simulate` wrote beside the days of a world: its settings, seed and code.

Apart from `simulate`, whose digest is part of what it writes.
"""

from __future__ import annotations

import json
from pathlib import Path

from ecdctr.errors import ConfigError, first_line

NAME = "world.json"


def check_description(root: Path) -> None:
    """Raise ConfigError where a folder holds a description of a world that cannot be read.

    A disk, a person, or a `simulate` that was killed while it wrote leaves one.
    """
    path = root / NAME
    try:
        described = json.loads(path.read_bytes())
        if not isinstance(described, dict):
            raise ValueError("it is not what was written")
    except FileNotFoundError:
        return
    except (ValueError, OSError) as error:
        said = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(
            f"{path} is damaged ({said}), so that nothing says which world lies there; bring it "
            f"back from a copy, or delete {root} and simulate the world again."
        ) from None
