"""Make two folders of videos, score them, and print what is decided; `w2sd-video generate` and `eval` in Python."""

import sys
from pathlib import Path

import w2sd_video
from w2sd_video.eval.results import Summary
from w2sd_video.shapes import grammar

PROMPTS = grammar.prompts(2)  # a verdict takes 10 prompts or more

for variant in ("plain", "w2sd"):
    requests = [w2sd_video.Request.of(prompt, seed=0, variant=variant, num_inference_steps=25) for prompt in PROMPTS]
    for made in w2sd_video.generate(requests, out=variant):
        print(made.paths["mp4"])

# Scores are kept in `scores.jsonl`: the same call again computes only what is missing.
scores = w2sd_video.evaluate(["plain", "w2sd"], ["shapes", "temporal_flickering"], rows_file="scores.jsonl")
summary = Summary(scores)  # the first folder is what the others are compared with
for group in summary.groups:
    print(group, summary.means[group]["shapes_jerk"])
for compared in summary.comparisons:
    if compared.decision:
        print(compared.column, compared.group, compared.decision)
summary.write(Path("scores.json"), command=sys.argv)  # with a CSV, and a file in VBench's own layout
