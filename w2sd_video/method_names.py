"""The names of the methods, and their classes in `w2sd_video.methods`. Needs no torch."""

METHODS = {
    "w2sd": "W2SD",
    "s2wd": "S2WD",
    "z_sampling": "ZSampling",
    "re_sampling": "ReSampling",
    "advanced_re_sampling": "AdvancedReSampling",
    "auto_guidance": "AutoGuidance",
    "optimistic": "Optimistic",
    "apg": "APG",
    "cfg_zero_star": "CFGZeroStar",
    "slg": "SkipLayerGuidance",
    "pag": "PerturbedAttentionGuidance",
    "s2_guidance": "S2Guidance",
    "predict_and_perturb": "PredictAndPerturb",
    "foresight": "Foresight",
    "guidance_schedule": "GuidanceSchedule",
}
