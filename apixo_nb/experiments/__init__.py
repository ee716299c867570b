"""Many runs at once: templates and lists, sweeps, grids, ratings, and ``df.apixo``."""
