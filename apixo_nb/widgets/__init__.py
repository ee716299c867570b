"""What one can click: the panel, the live grid, blind votes; the page is in ``static``."""
