"""
Benchmarks of a real server process; not tests, nothing collects them.

C{python -m tests.benchmarks} prints a table, C{--help} says how to run a part of it.
"""
