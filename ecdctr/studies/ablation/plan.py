"""What a study trains and when: its rows, their configurations, days and experiments.

TPM, CPM and A-CTR versions lie in experiments named by the digest of the settings behind them, so
that rows with the same CPM share it, and a killed study goes on where it was.
"""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ecdctr.config import PRODUCTION, Config, digest, load_config
from ecdctr.config.studies import CHAIN_DAYS, split_row
from ecdctr.config.terms import DEFAULT, FULL
from ecdctr.errors import ConfigError
from ecdctr.impressions.impressions import open_impressions
from ecdctr.levels.request import Request
from ecdctr.store.store import Store

if TYPE_CHECKING:
    from ecdctr.worlds.named import NamedWorld

DAY = dt.timedelta(days=1)
WEEK = dt.timedelta(days=7)
FIRST_TPM = dt.timedelta(days=6)  # the first TPM has at least a week to learn from


@dataclass(frozen=True)
class Study:
    """One study.

    A seed's world, prepared data and store lie in a folder of their own under `work`.
    """

    config_path: Path
    world: NamedWorld
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    eval_days: int
    work: Path
    # How long what goes on day by day has lived before its first evaluation
    chain_days: int = CHAIN_DAYS
    # Each n-th ads impression that no row trains on, for the forgetting matrix
    hold_out_every: int = 0
    next_day: bool = True  # whether each day's model is evaluated on the next day
    base: str = DEFAULT  # the variant that every row lies on top of
    own_data: bool = False  # the configuration's own impressions instead of simulated worlds
    until: dt.date | None = None  # the last evaluated day; the last one that is there by default
    # Evaluate each n-th day alone; what goes on day by day is trained on all of them
    eval_every: int = 1

    @cached_property
    def _of_base(self) -> Config:
        """Return the configuration that every row lies on top of; read once, as it then is."""
        return load_config(self.config_path).with_variant(self.base)

    def folder(self, seed: int) -> Path:
        """Return where everything of a seed lies."""
        return self.work.resolve() / f"{'own' if self.own_data else self.world.name}-{seed}"

    def store(self, seed: int) -> Store:
        """Return the seed's store."""
        return Store(self.folder(seed) / "store")

    def config(self, seed: int, row: str = FULL) -> Config:
        """Return the configuration of a row on a seed's world."""
        folder = self.folder(seed)
        of_this_row = of_row(self._of_base, row)
        places = {"root": folder / "data", "prepared": folder / "prepared"}
        data = of_this_row.data if self.own_data else of_this_row.data.model_copy(update=places)
        actr = of_this_row.actr.model_copy(update={"hold_out_every": self.hold_out_every})
        return of_this_row.model_copy(update={"seed": seed, "data": data, "actr": actr})

    def dates(self, seed: int, row: str = FULL) -> list[dt.date]:
        """Return the data dates of A-CTR: each has a next day to be evaluated on.

        Raises ConfigError when there are fewer than the study asks for.
        """
        root = self.config(seed, row).data.root
        return self._evaluated(open_impressions(root).dates("ads"), f"the ads in {root} have")

    def check_days(self) -> None:
        """Raise ConfigError when there are fewer days than asked for, before a world is made."""
        if self.own_data:
            self.dates(self.seeds[0])
            return
        world = self.world.settings
        days = [world.start + n * DAY for n in range(world.days)]
        self._evaluated(days, f"the world '{self.world.name}' has")

    def _evaluated(self, delivered: list[dt.date], there_are: str) -> list[dt.date]:
        days = [day for day in delivered if day - DAY in delivered and day <= (self.until or day)]
        newest_first = days[:: -self.eval_every][: self.eval_days]
        if len(newest_first) < self.eval_days:
            every = f", each {self.eval_every} apart" if self.eval_every > 1 else ""
            until = f" up to {self.until}" if self.until else ""
            option = "--days" if self.hold_out_every else "--eval-days"  # of a matrix: all days
            raise ConfigError(
                f"{self.eval_days} evaluation days{every}{until} were asked for; {there_are} "
                f"{len(newest_first)} that follow a delivered day. Ask for fewer days "
                f"({option}), or bring more."
            )
        return [day - DAY for day in newest_first[::-1]]

    def chain(self, seed: int, row: str) -> list[dt.date]:
        """Return all data dates that A-CTR is trained for.

        A row that continues has days before the evaluated ones.
        """
        dates = self.dates(seed)
        if not self.config(seed, row).chained("actr"):
            return dates
        delivered = open_impressions(self.config(seed, row).data.root).dates("ads")
        first = dates[0] - dt.timedelta(days=self.chain_days)
        return [date for date in delivered if first <= date <= dates[-1]]

    def cpm_dates(self, seed: int, row: str) -> list[dt.date]:
        """Return the data dates of CPM, none where the row takes nothing from it."""
        config, every = self.config(seed, row), split_row(row)[1]
        if config.actr.init == "none" and config.actr.source == "none":
            return []
        dates = self.chain(seed, row)
        if config.chained("actr") and config.actr.source == "none":
            dates = dates[:1]
        delivered = _natural_dates(config)
        if config.chained("cpm"):
            dates = [date for date in delivered if dates[0] <= date <= dates[-1]]
        dates = dates[::every]
        if config.chained("cpm"):
            earliest = delivered[0] + dt.timedelta(days=config.cpm.first_days - 1)
            for first_tpm in self.tpm_dates(seed, row)[:1]:  # before it there is no snapshot
                earliest = max(earliest, first_tpm + (dates[0] - config.snapshots.needed(dates[0])))
            before = (
                dates[0] - dt.timedelta(days=n) for n in range(every, self.chain_days + 1, every)
            )
            dates = [*sorted(d for d in before if d >= earliest and d in delivered), *dates]
        return dates

    def cpm_chains(self, seed: int, row: str) -> list[list[dt.date]]:
        """Return the same dates as what can be trained side by side: one by one, or one chain."""
        dates = self.cpm_dates(seed, row)
        return [dates] if self.config(seed, row).chained("cpm") else [[date] for date in dates]

    def tpm_dates(self, seed: int, row: str) -> list[dt.date]:
        """Return the data dates of TPM, oldest first: weekly, none where the row takes no snapshot.

        The same weeks for all rows, whichever of the versions they take: one ends the day before
        the first date, which is the newest that an impression of that date may know.
        """
        config = self.config(seed, row)
        if not config.snapshots.count:
            return []
        earliest = _natural_dates(config)[0] + FIRST_TPM
        first, last = self.dates(seed)[0] - DAY, self.dates(seed)[-1] - DAY
        weeks = (first + WEEK * ((last - first).days // 7 - n) for n in range(1000))
        return sorted(itertools.takewhile(lambda date: date >= earliest, weeks))

    def request(self, seed: int, row: str, level: str, date: dt.date) -> Request:
        """Request the training of one level of a row.

        Its experiment falls back to that of the level before.
        """
        config, store = self.config(seed, row), self.store(seed)
        cpm_dates = [str(date) for date in self.cpm_dates(seed, row)]
        tpm = digest([config.relevant("tpm"), [str(date) for date in self.tpm_dates(seed, row)]])[
            :10
        ]
        cpm = digest([config.relevant("cpm"), cpm_dates, tpm])[:10]
        actr = digest([config.relevant("actr"), cpm])[:10]
        names = {"tpm": f"tpm-{tpm}", "cpm": f"cpm-{cpm}", "actr": f"actr-{actr}"}
        parent = PRODUCTION
        for name in names.values():
            store.create_experiment(name, parent)
            parent = name
        return Request(config, store, date, names[level], split_row(row)[0])


def _natural_dates(config: Config) -> list[dt.date]:
    """Return the delivered days of natural content; raises ConfigError for none."""
    if dates := open_impressions(config.data.root).dates("natural"):
        return dates
    raise ConfigError(
        f"No day of natural content in {config.data.root}, which CPM and TPM learn from: import it "
        "(ecdctr import), or point data.root at it."
    )


def of_row(config: Config, row: str) -> Config:
    """Return the configuration with a row's variant applied.

    Raises ConfigError for an unknown one.
    """
    name, _ = split_row(row)
    return config if name == FULL else config.with_variant(name)
