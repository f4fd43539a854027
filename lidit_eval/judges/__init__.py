"""Judges say whether a picture shows what its prompt asks for."""
