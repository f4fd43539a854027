"""Scenes of stickers, and the words that ask for them."""
