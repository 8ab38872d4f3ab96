"""What a number means: measures, intervals and paired tests.

Read `significance.py`.
"""
