"""Blind side-by-side preference studies: who votes on what, how votes are kept, and what they say."""
