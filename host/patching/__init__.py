"""A model's weights as nodes ask for them: their names, and what merges and LoRAs set on them."""
