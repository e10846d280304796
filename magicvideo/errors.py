"""What can go wrong in ``magicvideo``, as one hierarchy.

``MagicVideoError`` is the root; its message is one sentence a user can act on.
"""


class MagicVideoError(Exception):
    """Report a failure of ``magicvideo`` in one sentence: what, where, what was expected, what to do."""
