"""What a run will take, reckoned beforehand (`--print-plan`)."""
