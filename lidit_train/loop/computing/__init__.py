"""How a step is computed: frozen weights in half precision, and CUDA graphs."""
