"""The artifact store: immutable versions, resolved as of a date."""
