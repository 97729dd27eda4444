"""What the rows of tables and figures are called, and their colours."""

from __future__ import annotations

from ecdctr.config.terms import FULL, PRODUCTION

NAMES = {
    "item_rate": "floor: item's click rate",
    "counts": "floor: user's clicks on the item",
    "gbm": "floor: gradient boosting on counts",
    "ads_only": "ads only",
    "no_tpm": "CPM initialisation (no TPM)",
    "memory": "CPM and memory",
    "vectors": "CPM and TPM's vectors",
    "paper": "paper's form",
    "full_window": "full, CPM anew each day",
    "tpm_only": "TPM only (no CPM)",
    "newest_snapshots": "full, all days with the snapshots of d",
    PRODUCTION: "full E-CDCTR",
    FULL: "full E-CDCTR",
    "oracle": "oracle (true probabilities)",
}

# Where a name without its brackets is still too long for a table of 80 columns
SHORT = {"item_rate": "floor: item's rate", "gbm": "floor: boosting"}
# Of lines side by side, told apart by most eyes
PALETTE = ("#1769aa", "#d08a2e", "#8a5bb5", "#2e8b57", "#b5475b", "#5f7f8c", "#937b2f", "#4a4fa8")
BLUE, ORANGE, PURPLE, GREEN, *_ = PALETTE
COLOURS = {
    "ads_only": "#8a8f98",
    "no_tpm": ORANGE,
    "tpm_only": PURPLE,
    PRODUCTION: BLUE,
    "oracle": GREEN,
}


def short_name(experiment: str) -> str:
    """Return the name without its explanation in brackets: the table has to fit into 80 columns."""
    return SHORT.get(experiment) or NAMES.get(experiment, experiment).split(" (")[0]
