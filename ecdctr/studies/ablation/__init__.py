"""Rows × seeds on simulated worlds."""
