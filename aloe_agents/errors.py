"""Everything that can go wrong, on one page.

    AloeError
    ├── ConfigError        the user's input cannot be used: exit 2, nothing was asked or written
    │   └── WiringError    an agent hears what nobody says
    ├── Fatal              ends the run, keeps what was done: bad key, unknown model, quota, dead journal
    ├── Stopping           the run was asked to stop; whoever meets it is pending, not failed
    └── Failure            ends one node of one conversation; carries a FailureReason
        ├── CallFailed     a model gave no usable answer, and asking again will not help
        │   └── Transient  ... and asking again may help (the endpoint does so, up to its limit)
        ├── Unparsed       a model answered, repeatedly, in a form that its role cannot read
        ├── Stuck          an agent waits for a message that nobody is left to say
        └── SaidTwice      an address was assigned a second time

What any other exception becomes that an agent raises: a failure with the reason ``role-error``.
"""

from __future__ import annotations

from enum import StrEnum


class FailureReason(StrEnum):
    """Why a node or a conversation failed. The list is closed: reports group by it."""

    DEADLINE = "deadline"
    """No answer within the attempt's deadline, in every attempt."""
    UNREACHABLE = "unreachable"
    """The server refused the connection, dropped it, or has no address."""
    SERVER_ERROR = "server-error"
    """The server answered 5xx (or 408, 409) in every attempt."""
    RATE_LIMITED = "rate-limited"
    """The server answered 429; the whole endpoint pauses and tries again."""
    BAD_RESPONSE = "bad-response"
    """The body was no chat completion: not JSON, cut short, no choice, or an error at status 200."""
    EMPTY = "empty"
    """The answer held no text."""
    FILTERED = "filtered"
    """A content filter withheld the answer."""
    CONTEXT_OVERFLOW = "context-overflow"
    """The prompt and the answer do not fit the model's context."""
    REFUSED_REQUEST = "refused-request"
    """The server will not take this request (400, 404, 422), however often it is sent."""
    UNPARSED = "unparsed"
    """The model's answers never had the form that the role asks for."""
    ROLE_ERROR = "role-error"
    """The role's own code raised, or said something that is not a message."""
    STUCK = "stuck"
    """Everything left waited for a message that nobody would say."""
    SAID_TWICE = "said-twice"
    """A role said an address that was taken."""


class AloeError(Exception):
    """Root of this package's exceptions."""


class ConfigError(AloeError):
    """The user's input cannot be used; the text names the thing and the way out."""


class WiringError(ConfigError):
    """The agents do not fit together."""


class Fatal(AloeError):
    """The whole run cannot go on; the text says what to mend."""


class Stopping(AloeError):
    """The run is stopping, so no new call is made."""


class Failure(AloeError):
    """One node of one conversation failed."""

    reason = FailureReason.ROLE_ERROR


class CallFailed(Failure):
    """A call ended without a usable answer."""

    def __init__(self, reason: FailureReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Transient(CallFailed):
    """A call failed in a way that may pass.

    ``retry_after`` is the server's own wish in seconds, where it voiced one. ``uncertain`` says that the
    request had left, so that the server may have done (and charged for) the work.
    """

    def __init__(
        self, reason: FailureReason, text: str, *, retry_after: float | None = None, uncertain: bool = False
    ) -> None:
        super().__init__(reason, text)
        self.retry_after = retry_after
        self.uncertain = uncertain


class Unparsed(Failure):
    """A model's answers could not be read, after every repetition."""

    reason = FailureReason.UNPARSED


class Stuck(Failure):
    """Everything left in a conversation waits for messages that nobody will say."""

    reason = FailureReason.STUCK


class SaidTwice(Failure):
    """A message's address was already assigned."""

    reason = FailureReason.SAID_TWICE


def reason_of(cause: BaseException) -> FailureReason:
    """The reason under which ``cause`` is counted."""
    return cause.reason if isinstance(cause, Failure) else FailureReason.ROLE_ERROR
