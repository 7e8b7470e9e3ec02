"""Studies that compare methods on fresh prompts alone: how they sample, go on, and what they refuse."""

from __future__ import annotations

import lzma

import pytest

from w2sd_video.errors import Refused
from w2sd_video.studies import confirm, resampling, study

STAGES = {"resampling": 1, "confirm": len(confirm.STAGES)}
OUTCOMES = {"resampling": "On 1 fresh prompts, of 4 columns.", "confirm": "On 1 of 300 fresh prompts."}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_quick_run_samples_and_goes_on_from_its_rows(name, tmp_path):
    first = study.perform(name, study.Run(quick=True, cache=tmp_path))
    kept = tmp_path / "rows.jsonl.xz"
    kept.write_bytes(lzma.compress((tmp_path / f"{name}-quick.jsonl").read_bytes()))
    shares: list[float] = []
    show = study.Run(
        quick=True, cache=tmp_path / "other", rows=[kept], progress=lambda what, share: shares.append(share)
    )
    again = study.perform(name, show)
    assert shares == [1] * STAGES[name], "no time was taken by what is kept, so none is estimated from it"
    assert str(again.rows) == str(first.rows) and OUTCOMES[name] in again.outcome
    third = study.perform(name, study.Run(quick=True, cache=tmp_path / "third", rows=[kept], workers=0))
    assert str(third.rows) == str(first.rows), "nothing is sampled"


@pytest.mark.slow
@pytest.mark.parametrize(("of", "first", "few"), [(resampling, 75, 80), (confirm, 200, 300)])
def test_prompts_on_which_nothing_is_fresh_and_rows_that_lack_are_refused(of, first, few, tmp_path):
    with pytest.raises(Refused, match=f"--prompts: {first} is not accepted; give {first + 1} to 500"):
        of.run(study.Run(cache=tmp_path, prompts=first))
    with pytest.raises(Refused, match=f"--workers: 0 is not accepted; plain has 0 of {few} prompts yet"):
        of.run(study.Run(cache=tmp_path, prompts=few, workers=0))
