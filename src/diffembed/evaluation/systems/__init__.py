"""Who answers: encoders, BM25 and fused runs behind one protocol, and the vectors they keep.

Read `searching.py`.
"""
