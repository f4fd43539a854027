"""A bridge learns through a frozen U-Net that reads what it writes."""
