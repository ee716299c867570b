"""Ways to have many tasks in flight, as documentation or a first answer on the web writes them.

Each is a function of an address, a number of tasks and a scale that divides all its pauses; it returns the
tasks' ids with the moment at which it knew that they were done.
"""
