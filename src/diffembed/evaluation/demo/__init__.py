"""The main job of `diffembed compare`: systems side by side on text that every Python carries.

Read `compare.py`.
"""
