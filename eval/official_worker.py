"""Runs one of VBench's own functions; executed by the Python that has them, which need not have this project.

Its argument is a JSON file: a `dimension`, a `device`, `videos` (each a `path` and a `prompt`), whether those of the
`suite`'s prompts are all that it takes, and `out`, the file that gets `scores` and `problems` by path. Before each
video it prints a line of `STARTED`, how many are done, and the video's path.
"""

import importlib
import json
import os
import re
import shutil
import sys
import tempfile

STARTED = "w2sd-video "


def main(job):
    sys.path[:] = [folder for folder in sys.path if folder]  # not what happens to lie in the current folder
    import vbench

    name = job["dimension"]
    with open(os.path.join(os.path.dirname(vbench.__file__), "VBench_full_info.json"), encoding="utf-8") as file:
        suite = {row["prompt_en"]: row for row in json.load(file) if name in row["dimension"]}
    videos = [video for video in job["videos"] if video["prompt"] in suite or not job["suite"]]
    scores, problems = score(name, videos, suite, job["device"]) if videos else ({}, {})
    with open(job["out"], "w", encoding="utf-8") as file:
        json.dump({"scores": scores, "problems": problems}, file)


def score(name, videos, suite, device):
    from vbench.utils import init_submodules

    module = importlib.import_module("vbench." + name)
    compute = getattr(module, "compute_" + name)
    submodules = init_submodules([name])[name]
    with tempfile.TemporaryDirectory() as folder:
        info = os.path.join(folder, "info.json")

        def scored(some, done=0):
            def counted(items, **how):  # instead of tqdm, over one item a video
                for index, item in enumerate(items):
                    print(STARTED + json.dumps([done + index, some[index]["path"]]), flush=True)
                    yield item

            vars(module)["tqdm"] = counted
            rows, paths = [], {}
            for index, video in enumerate(some):
                place = linked(video, index, folder)
                paths[place] = video["path"]
                row = {"prompt_en": video["prompt"], "dimension": [name], "video_list": [place]}
                known = suite.get(video["prompt"], {})
                rows.append({**row, **{key: known[key] for key in ("auxiliary_info",) if key in known}})
            with open(info, "w", encoding="utf-8") as file:
                json.dump(rows, file)
            _, results = compute(info, device, submodules)
            return {paths[result["video_path"]]: float(result["video_results"]) for result in results}

        try:
            return scored(videos), {}
        except Exception:  # One video that it cannot take ends it for all.
            scores, problems = {}, {}
            for index, video in enumerate(videos):
                try:
                    scores.update(scored([video], done=index))
                except Exception as error:
                    problems[video["path"]] = " ".join(f"{type(error).__name__}: {error}".split())
            return scores, problems


def linked(video, index, folder):
    """The video under a name that VBench reads: most of it goes by `.mp4`, human_action by the prompt before a dash."""
    if os.path.isdir(video["path"]):
        return video["path"]
    end = os.path.splitext(video["path"])[1].lower()
    end = end if end in (".gif", ".png", ".jpg") else ".mp4"
    prompt = re.sub(r'[\\/:*?"<>|]', " ", video["prompt"])[:60]
    place = os.path.join(folder, f"{prompt}-{index}{end}")
    if os.path.lexists(place):
        os.remove(place)
    try:
        os.symlink(os.path.abspath(video["path"]), place)
    except OSError:  # as on Windows, without the right to
        shutil.copy(video["path"], place)
    return place


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as opened:
        main(json.load(opened))
