"""Stickers: the data set of emoji scenes that the shipped weights were trained on.

kinds -> glyphs -> scenes draw pictures; grammar writes captions; heldout says which
combinations are never trained on; scorer measures what a model drew.
"""
