"""Whether a prompt asks for motion; imports nothing heavy, because reports of votes ask too."""

import re

STILLNESS = re.compile(r"\b(still|static|motionless|frozen|stationary|unmoving)\b", re.IGNORECASE)


def asks_for_motion(prompt: str) -> bool:
    """Tell whether a prompt asks for motion: everything does that has no word for stillness.

    A prompt of several clauses joined by "and" asks for motion unless each of them has such a word.
    """
    return not all(STILLNESS.search(clause) for clause in re.split(r"\band\b|[,;]", prompt) if clause.strip())
