"""How people word what they want to see: the words, and the sentences made of them."""
