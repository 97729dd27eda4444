"""What a model reads: impressions joined with history and counts, encoded as batches."""
