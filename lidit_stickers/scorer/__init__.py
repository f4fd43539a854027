"""The scorer: what a picture shows, and whether it was asked for."""
