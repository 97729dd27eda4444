"""An ablation's page in the store, where the pages in Airflow's UI find it."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ecdctr.files import durable
from ecdctr.report.figures import save_png
from ecdctr.report.html import as_html
from ecdctr.studies.ablation.figure import quality_and_cost
from ecdctr.studies.ablation.records import Records, mean_gauc

if TYPE_CHECKING:
    from ecdctr.store.store import Store

PICTURE = "cost.png"


def save_ablation(
    store: Store, name: str, world: str, records: Records, page: Callable[[str], str]
) -> Path:
    """Write page, picture and figures of a study into the store, whole or not at all.

    Return its folder. `page` makes the Markdown that shows the picture of the given name. An
    earlier study of the same name is replaced. Raises StoreError for a bad name.
    """
    means = mean_gauc(records)
    content = {
        "kind": "ablation",
        "name": name,
        "world": world,
        "seeds": sorted({record["seed"] for record in records}),
        "days": sorted({str(record["date"]) for record in records}),
        "gauc": {row: gauc if math.isfinite(gauc) else None for row, gauc in means.items()},
        "written_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    with store.staging() as folder:
        save_png(quality_and_cost(records), folder / PICTURE)
        text = page(PICTURE)
        (folder / "study.md").write_text(text, "utf-8")
        (folder / "study.html").write_text(as_html(text, folder), "utf-8")
        durable.write_bytes(folder / "study.json", json.dumps(content, indent=1).encode())
        store.save_study(folder, name)
    return store.study(name)
