"""Losses on tensors: masked diffusion, masked next-token prediction, causal language modelling, contrast.

Read `diffusion.py` first. This room knows neither files nor tokenizers nor trainers.
"""
