"""The facade: settings, key, client, ledger, pictures and engine made one; and what looks after them."""
