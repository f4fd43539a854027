"""How a step is computed: frozen weights in fewer bits, and CUDA graphs."""
