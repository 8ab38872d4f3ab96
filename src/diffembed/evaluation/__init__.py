"""Evaluation: suites, measures, baselines, significance; takes any `Encoder`."""
