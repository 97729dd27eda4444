"""E-CDCTR: tri-level asynchronous transfer for cross-domain click-through-rate prediction (arXiv 2408.16238)."""

__version__ = "0.1.0"
