"""What makes two values comparable: a signature that names how each was measured."""

from metrics.errors import IncomparableError


def signature(metric: str, version: int, *parts: str) -> str:
    """Join a metric's name, version and ``key:value`` parts: ``clip|v:1|decode:...|sampling:uniform:16``."""
    return "|".join([metric, f"v:{version}", *parts])


def difference(a: float, signature_a: str, b: float, signature_b: str) -> float:
    """Return ``a - b`` of two values measured in the same way.

    Raises:
        IncomparableError: the signatures differ; the message says in which parts.
    """
    if signature_a != signature_b:
        first, second = signature_a.split("|"), signature_b.split("|")
        only_a = ", ".join(part for part in first if part not in second)
        only_b = ", ".join(part for part in second if part not in first)
        raise IncomparableError(
            f"these values were measured differently and cannot be subtracted: {only_a or 'nothing'} "
            f"against {only_b or 'nothing'}; score both again in one way"
        )
    return a - b
