"""Ablations: variants forked from one trunk, trained alike, and compared in pairs."""
