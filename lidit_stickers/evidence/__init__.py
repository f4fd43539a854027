"""What ablations, bias and probes found, written into the documents."""
