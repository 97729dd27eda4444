"""Durable files, and copies of remote ones."""
