"""The scorers' networks, a file each: how they load the published weights, and what they make of frames."""
