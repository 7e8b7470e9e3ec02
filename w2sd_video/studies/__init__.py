"""Studies of why W2SD works, where it does not, and how far that agrees with the paper; each takes minutes on a CPU.

A study is one file, which uses the package as a user would: a diffusers pipeline (`points`) samples closed-form
mixtures, or small networks that the study trains, with the package's methods. `study` runs a study and writes its
figure, its table and its page.
"""

from __future__ import annotations

# By name: a line for lists. Each is the file of that name.
STUDIES = {
    "gauss1d": "two peaks, one of them under-represented: densities, paths, and three designed pairs (Fig. 1, 4, 18)",
    "gauss2d": "four peaks, one of them almost missing: where samples go (Fig. 5, 20)",
    "theory": "what the proof of Theorem 1 drops, of which order it is, and a corrected statement",
    "inversion": "errors of the inversion, re-sampling and auto-guidance (Tables 13, 14, 15; Eq. 14-20)",
    "imbalance": "digits of two classes with the paper's ratios: how many of each are generated (Fig. 6, 7)",
    "alignment": "digits by training time: cosine of weak-to-strong and strong-to-ideal (Fig. 19)",
    "magnitude": "the gap between the arms and its sign, in guidance and in weights (Fig. 11, 12; Table 6)",
    "matched": "whether methods are more than a schedule of guidance; two fakes are to be caught",
    "strength": "132 pairs: whether what check-pair says of a pair tells what W2SD does with it",
    "reuse": "what of a reflection can be had from the step before: parts of optimistic reflection, one by one",
    "motion": "whether motion falls, and which gains, intervals and pairs keep it; takes hours, can go on",
    "resampling": "whether Re-Sampling and Advanced Re-Sampling are better, on fresh prompts; takes hours, can go on",
    "confirm": "whether W2SD and optimistic W2SD are better, and as good, on 300 fresh prompts; takes hours, can go on",
    "cost": "quality against network evaluations, by all methods on the shipped model; takes hours, can go on",
}
