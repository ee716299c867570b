"""Runs and pictures to files, pages, folders and trackers; and bundles back into a ledger."""
