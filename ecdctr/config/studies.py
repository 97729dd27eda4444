"""What a study compares and how long it looks, unless it is told: one place for every door to it.

The command line's options, the forms in Airflow and the command that a page prints read it here.
"""

from __future__ import annotations

import re

from ecdctr.config.terms import FULL, PRODUCTION
from ecdctr.errors import ConfigError

ABLATION_ROWS = ("ads_only", "tpm_only", "no_tpm", FULL)
TUNING_ROWS = ("ads_only", FULL)
FORGETTING_VARIANTS = ("continue_no_tpm", "continue", FULL)  # the first is compared with
REPORT_EXPERIMENTS = ("ads_only", "no_tpm", PRODUCTION)  # of the demo
WORLD = "demo"
EVAL_DAYS = 4
TUNING_DAYS = 2
CHAIN_DAYS = 30  # that what goes on day by day has lived before its first evaluation
HOLD_OUT_EVERY = 5  # each n-th impression of ads is kept for a matrix of forgetting
REFRESHED = "@[1-9][0-9]{0,3}"  # at a variant's name: every how many days its CPM is trained


def split_row(row: str) -> tuple[str, int]:
    """Return a row's variant, and every how many days its CPM is refreshed.

    Raises ConfigError for a row that is neither NAME nor NAME@DAYS.
    """
    name, at, days = row.partition("@")
    if at and not re.fullmatch(REFRESHED, at + days):
        raise ConfigError(
            f"Row '{row}': expected NAME or NAME@DAYS with a whole number of days, 1 to 9999, for "
            "example full@7."
        )
    return name, int(days or 1)
