"""What a vision encoder sees in pictures, for representation alignment."""
