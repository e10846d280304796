"""Systems under comparison: one adapter kind per file, all behind ``base.System``."""
