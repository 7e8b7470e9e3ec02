"""Runs one of VBench's own functions; executed by the Python that has them, which need not have this project.

Its argument is a JSON file: a `dimension`, a `device`, `videos` (each a `path` and a `prompt`), and `out`, the file
that gets their scores by path.
"""

import importlib
import json
import os
import sys
import tempfile


def main(job):
    import vbench
    from vbench.utils import init_submodules

    name = job["dimension"]
    with open(os.path.join(os.path.dirname(vbench.__file__), "VBench_full_info.json"), encoding="utf-8") as file:
        suite = {row["prompt_en"]: row for row in json.load(file) if name in row["dimension"]}
    rows = []
    for video in job["videos"]:
        row = {"prompt_en": video["prompt"], "dimension": [name], "video_list": [video["path"]]}
        known = suite.get(video["prompt"], {})
        rows.append({**row, **{key: known[key] for key in ("auxiliary_info",) if key in known}})
    with tempfile.TemporaryDirectory() as folder:
        info = os.path.join(folder, "info.json")
        with open(info, "w", encoding="utf-8") as file:
            json.dump(rows, file)
        compute = getattr(importlib.import_module("vbench." + name), "compute_" + name)
        _, videos = compute(info, job["device"], init_submodules([name])[name])
    with open(job["out"], "w", encoding="utf-8") as file:
        json.dump({video["video_path"]: float(video["video_results"]) for video in videos}, file)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as opened:
        main(json.load(opened))
