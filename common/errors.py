"""Every error a person can act on: what was wrong, where, what is allowed, what to do next."""

from __future__ import annotations

from typing import ClassVar


class FedkalemiaError(Exception):
    """Root of all errors that end a command with exit code 2 and one sentence.

    ``code`` is the only thing about an error that may leave a site: the server
    looks the sentence up in ``common.protocol.FAILURES``.
    """

    code: ClassVar[str] = "site_error"


class ConfigurationError(FedkalemiaError):
    """A setting is unknown, has the wrong type or is out of range."""

    code = "bad_configuration"


class PreprocessingError(ConfigurationError):
    """The site prepares its beats, or its results, with other settings than the run asks for."""

    code = "other_preprocessing"


class SourceError(FedkalemiaError):
    """A data root, table or waveform file is missing, unreadable or not what its layout promises."""

    code = "bad_source"


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
