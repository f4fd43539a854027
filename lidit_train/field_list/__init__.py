"""Every field of a recipe, as its records say: for people, for a page and for editors."""
