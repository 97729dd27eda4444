"""What was delivered: days of impressions, their contract, imports of other logs."""
