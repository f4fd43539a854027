"""Noise, objectives and samplers."""
