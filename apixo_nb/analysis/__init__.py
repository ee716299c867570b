"""Runs as tables: DataFrames and their files, sums by group, plots, pivots, and what blind votes say."""
