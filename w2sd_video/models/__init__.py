"""Models: where they are (`sources`), what is in their files (`checkpoints`), whether they fit, and how they load."""
