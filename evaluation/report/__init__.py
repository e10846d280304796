"""One report over studies, scores and videos of a database: a ``Report`` object, and its HTML and JSON."""
