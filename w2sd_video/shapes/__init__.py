"""A small world of moving shapes: prompts, renderer, judge, and the text-to-video model that ships with the package."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The shipped models in diffusers' layout: `base` (weak), `tuned` (strong), `motion` (the motion module of both)."""
