"""A bridge learns from a recording to write the conditioning of another text encoder."""

TRAINS = ("bridge",)  # values of the recipe's `trains`
