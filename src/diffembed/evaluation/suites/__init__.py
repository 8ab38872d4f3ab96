"""What is asked: the named suites, the folders they are read from, and the tasks that are generated.

Read `named.py`, then `reading.py`.
"""
