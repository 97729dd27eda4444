"""Where each part pays: worlds with visits on a grid, and where on it a log lies."""
