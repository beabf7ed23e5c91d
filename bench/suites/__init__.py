"""Benchmarks: ours and a peer in one interleaved run, ratios before absolute figures, raw results kept."""
