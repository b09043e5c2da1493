"""Every error a person can act on: what was wrong, where, what is allowed, what to do next."""

from __future__ import annotations

from typing import ClassVar, Final

#: Longest value that an error quotes, characters.
MOST_SHOWN: Final = 60


class FedkalemiaError(Exception):
    """Root of all errors that end a command with exit code 2 and one sentence.

    ``code`` is the only thing about an error that may leave a site: the server
    looks the sentence up in ``common.protocol.FAILURES``.
    """

    code: ClassVar[str] = "site_error"

    def told(self) -> str:
        """Return the sentence for the terminal of the person who ran the command."""
        return str(self)


class ConfigurationError(FedkalemiaError):
    """A setting is unknown, has the wrong type or is out of range."""

    code = "bad_configuration"


class PreprocessingError(ConfigurationError):
    """The site prepares its beats, or its results, with other settings than the run asks for."""

    code = "other_preprocessing"


class SourceError(FedkalemiaError):
    """A data root, table or waveform file is missing, unreadable or not what its layout promises.

    Parameters
    ----------
    sentence : what is wrong, where (file and line), what was expected, what to do. It may be logged, so it
        holds nothing a cell of a patient's row said.
    problem : code of the documentation's page, one of ``client.data.problems.Problem``.
    value : what stood there. Shown on the terminal of the person who ran the command, never logged.
    """

    code = "bad_source"

    def __init__(self, sentence: str, *, problem: str = "", value: str | None = None) -> None:
        super().__init__(sentence)
        self.problem, self.value = problem, value

    def __reduce__(self) -> tuple[object, ...]:
        """Keep what is not in the sentence when the error comes from a worker process."""
        return _source_error, (type(self), str(self), self.problem, self.value)

    def told(self) -> str:
        """Return the sentence for the terminal, with the value and the code of the page that explains it."""
        found = "" if self.value is None else f" (found {_shown(self.value)})"
        page = f" [{self.problem}]" if self.problem else ""
        return f"{self}{found}{page}"


def _source_error(kind: type[SourceError], sentence: str, problem: str, value: str | None) -> SourceError:
    return kind(sentence, problem=problem, value=value)


def _shown(value: str) -> str:
    """Write a value on one line, without what a terminal would obey; a long one is cut."""
    text = value if len(value) <= MOST_SHOWN else f"{value[:MOST_SHOWN]}..."
    return ascii(text)


class SignalError(FedkalemiaError):
    """A signal function was given an array it cannot work on."""

    code = "bad_signal"


class DatabaseError(FedkalemiaError):
    """The site database is missing, unreachable or of another schema version."""

    code = "bad_database"


class CohortError(FedkalemiaError):
    """The cohort is empty, has one label only, or does not exist yet."""

    code = "bad_cohort"


class ModelError(FedkalemiaError):
    """Weights do not fit the model they are meant for, or a checkpoint is damaged."""

    code = "bad_model"


class ProtocolError(FedkalemiaError):
    """A message holds something that may not cross the wire."""

    code = "bad_message"


class PolicyError(FedkalemiaError):
    """The site's own policy forbids what was asked for."""

    code = "refused_by_policy"


class FederationError(FedkalemiaError):
    """Too few sites are connected or answered."""

    code = "federation_failed"


class BundleError(PolicyError):
    """The code that came with a run is not on the site's list of approved bundles."""

    code = "bundle_refused"


class TaskError(PolicyError):
    """The engine handed over a task or message that is not one of this federation's."""

    code = "task_refused"


class MaintenanceError(PolicyError):
    """The site is inside its own maintenance window."""

    code = "maintenance"


class IdentityError(FedkalemiaError):
    """A key or certificate is missing, unreadable, expired, or belongs to somebody else."""

    code = "bad_identity"


class LedgerError(FedkalemiaError):
    """The ledger of what left the site cannot be written, or does not verify."""

    code = "ledger_failed"


class StorageError(FedkalemiaError):
    """The disk is full or a folder cannot be written."""

    code = "storage_failed"
