"""The ``magicvideo`` program: one module per command group; importing one imports nothing heavy."""
