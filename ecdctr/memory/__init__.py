"""What users did with items over long windows: weekly tables, and the days since them."""
