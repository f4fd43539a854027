"""A comparison by eye of which the looker does not know what is whose."""
