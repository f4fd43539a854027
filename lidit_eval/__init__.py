"""Does a model paint what its prompts say? Pictures drawn, judged and reported: `lidit eval`."""
