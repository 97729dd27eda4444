"""What a study compares and how long it looks, unless it is told: one place for every door to it.

The command line's options, the forms in Airflow and the command that a page prints read it here.
"""

from __future__ import annotations

from ecdctr.config.terms import FULL, PRODUCTION

ABLATION_ROWS = ("ads_only", "tpm_only", "no_tpm", FULL)
TUNING_ROWS = ("ads_only", FULL)
FORGETTING_VARIANTS = ("continue_no_tpm", "continue", FULL)  # the first is compared with
REPORT_EXPERIMENTS = ("ads_only", "no_tpm", PRODUCTION)  # of the demo
WORLD = "demo"
EVAL_DAYS = 4
TUNING_DAYS = 2
CHAIN_DAYS = 30  # that what goes on day by day has lived before its first evaluation
HOLD_OUT_EVERY = 5  # each n-th impression of ads is kept for a matrix of forgetting
