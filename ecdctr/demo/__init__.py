"""The first five minutes: `./run demo` and `./run ui`."""
