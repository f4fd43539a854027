"""What attention, gates and states of a prompt look like: numbers, and pictures of them."""
