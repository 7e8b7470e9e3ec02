"""Benchmarks of speed, memory and precision at the true size of the models, on this machine's device."""
