"""`w2sd-video study`: the studies of the paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import runs
from ..errors import Refused, did_you_mean
from ..progress import bar
from ..studies import STUDIES
from ..terminal import FORMAT, PATH, err, messages, number, out, quiet, say, wants_json


def study(
    name: Annotated[
        str,
        typer.Argument(help="A study, or `ls` to list them.", autocompletion=lambda: ["ls", *STUDIES]),
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="Where the table, the figure and the trained networks go.", **PATH)
    ] = Path("studies"),
    seed: Annotated[int, typer.Option(help="Seed of everything that is random.", **number(int))] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small size, to see that it runs; its numbers mean nothing.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Write the study's page for the site into this folder, too.", **PATH)
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(help="Of a study that samples videos: the first N prompts of its list.", **number(int, 1, 500)),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Of a study that samples videos: processes side by side. 0: only what its rows say already.",
            **number(int, 0, 256),
        ),
    ] = 1,
    rows: Annotated[
        list[Path] | None,
        typer.Option(
            help="Of a study that samples videos: rows of earlier runs, or of `shapes bench`; may be repeated.", **PATH
        ),
    ] = None,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """Run a study of the paper on a CPU: a figure (PNG, SVG), a CSV, and a sentence that says what came out.

    `w2sd-video study ls` lists them. The same command writes the same CSV; networks that a study has trained, and
    scores of videos that it has sampled, are kept beside it and used again.
    """
    # One function because its options are declared here, and what it does is one thing after another.
    with messages():
        as_json = wants_json(form)
        if name == "ls":
            if as_json:
                say(json.dumps(STUDIES, indent=1))
            else:
                for each, about in STUDIES.items():
                    out.print(f"{each:<12} {about}", markup=False)
            return
        if name not in STUDIES:
            raise Refused("NAME", name, did_you_mean(name, ["ls", *STUDIES]))
        from ..studies import study as studies

        quiet()

        kept = list(rows or [])
        if wrong := [path for path in kept if not path.is_file()]:
            raise Refused("--rows", str(wrong[0]), "give a file of rows")
        for option, to in (("--out", folder), ("--page", page)):
            if to is not None:
                runs.usable(to, option)
        if page is not None and (beside := studies.rows_beside(name, page)).exists():
            kept.append(beside)

        with bar(name, shares=True) as show:

            def progress(what: str, share: float) -> None:
                show(share, 1, doing=f"{name}: {what}")

            run = studies.Run(seed, quick, folder / "trained", progress, prompts, workers, kept)
            result = studies.perform(name, run)
        paths = studies.write(name, result, folder)
        if page is not None:
            paths += studies.write_page(name, result, run, page)
        if as_json:
            facts = {"study": name, "seed": seed, "quick": quick, "outcome": result.outcome, "agrees": result.agrees}
            say(json.dumps(facts | {"files": [str(path) for path in paths]}, indent=1, ensure_ascii=False))
            return
        out.print(f"{result.outcome}\n{result.agrees}", markup=False)
        err.print(", ".join(map(str, paths)), markup=False)
