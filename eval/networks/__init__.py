"""The scorers' networks, one file each. Each loads the published weights and computes features or scores of frames."""
