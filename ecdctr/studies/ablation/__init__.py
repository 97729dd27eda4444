"""Compare rows × seeds on simulated worlds with progressive validation.

A killed run goes on where it was.
"""
