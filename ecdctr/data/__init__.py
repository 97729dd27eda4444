"""Impressions: contract, simulator, preparation, batches."""
