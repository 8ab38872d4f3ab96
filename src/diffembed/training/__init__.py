"""Adapt an autoregressive model into a diffusion model, and fine-tune a language model into an embedder.

Read `config.py` for what can be set, then `contrast.py` (`train`) and `adapt.py` (`adapt`). This room does not know the
evaluation suites: a development score arrives as a function `score(encoder) -> {measure: value}`.
"""
