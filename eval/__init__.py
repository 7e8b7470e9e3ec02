"""Scores videos as VBench does: `evaluate` them, and see what the scores come to with `results.Summary`."""
