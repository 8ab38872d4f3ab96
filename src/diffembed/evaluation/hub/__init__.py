"""Suites of mteb tasks, through mteb and into our results.

Read `running.py`.
"""
