"""What is drawn and measured as training goes on: grids, and the loss of held-out pictures."""
