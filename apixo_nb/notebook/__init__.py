"""``%load_ext apixo_nb``: the magics, their commands, their completion."""
