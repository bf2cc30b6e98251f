"""The papers' experiments, scaled to what a laptop trains in hours: `python -m benchmarks.papers NAME`."""
