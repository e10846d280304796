"""What can go wrong in ``evaluation``, as one hierarchy.

``EvaluationError`` is the root; its message is one sentence a user can act on.
"""


class EvaluationError(Exception):
    """Report a failure of ``evaluation`` in one sentence: what, where, what was expected, what to do."""
