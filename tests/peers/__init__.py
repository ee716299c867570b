"""How often other clients send one paid request, measured: see README.md in this folder."""
