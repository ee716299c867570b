"""Every run a row, in SQLite or PostgreSQL: written before money is spent, leased to a process, searched."""
