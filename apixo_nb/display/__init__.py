"""Runs in a cell: cards, galleries, comparisons, and live output that lasts."""
