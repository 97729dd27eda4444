"""The three levels, each one function of (configuration, data date, store)."""
