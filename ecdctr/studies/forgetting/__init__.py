"""Who forgets what: models of many days on many days."""
