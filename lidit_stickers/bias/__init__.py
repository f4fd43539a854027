"""Positional bias: how much a model loses that its prompt says late (paper, A.3 and Figure 3)."""
