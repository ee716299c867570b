"""The vocabulary: models and prices, requests, run records, settings, the key, money, words for people.

Everything else is written in these terms. Nothing here knows a network, a database or a notebook.
"""
