"""Studies over many versions: rows × seeds with progressive validation."""
