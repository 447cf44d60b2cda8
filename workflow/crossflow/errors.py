"""The two kinds of failure that a person is told about."""


class CrossflowError(Exception):
    """A study can not go on. The message is one sentence: what, where, and what to do about it."""


class BrokenQuestion(Exception):
    """One question can not be used; the study goes on without it. The message is the reason that is listed."""
