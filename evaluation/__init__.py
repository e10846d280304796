"""The harness: systems, prompts, runs, scores, studies and the report over all of them."""
