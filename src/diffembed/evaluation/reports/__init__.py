"""Results for people: systems against each other in tables, pages, plots and Markdown.

Read `comparison.py`.
"""
