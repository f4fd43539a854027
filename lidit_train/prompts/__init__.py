"""A collection of prompts, made from word lists with a clear licence: what a recording reads."""
