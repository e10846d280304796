"""Training programs: each is resumable, seeded, and writes its recipe beside the weights."""
