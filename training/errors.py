"""Training's errors: branches of the registry's tree, which `registry.domain.errors` draws.

    InvalidRequest                     400
    ├── InvalidData                        invalid_data
    └── JobNotActive                       job_not_active
    NotFound                           404
    ├── TrainingFileNotFound               file_not_found
    └── JobNotFound                        job_not_found
    Conflict                           409
    └── ResumeRefused                      resume_refused
    HotswapError
    ├── RequirementNotMet              409 requirement_not_met
    ├── TrainingInterrupted            409 training_interrupted
    ├── TrainingDiverged               422 training_diverged
    └── ReportUnreadable               500 job_report_unreadable

Imports no torch: a client that imports this module gets these classes back from a server.
"""

from __future__ import annotations

from hotswap.registry.domain.errors import Conflict, HotswapError, InvalidRequest, NotFound


class InvalidData(InvalidRequest):
    """A training or evaluation file that cannot be used; names file, line and field."""

    code = "invalid_data"


class JobNotActive(InvalidRequest):
    """The job is in a state from which it cannot do what was asked; names the state."""

    code = "job_not_active"


class TrainingFileNotFound(NotFound):
    code = "file_not_found"


class JobNotFound(NotFound):
    code = "job_not_found"


class TrainingDiverged(HotswapError):
    """The loss is no longer a finite number; nothing is published."""

    code = "training_diverged"
    status = 422


class TrainingInterrupted(HotswapError):
    """Asked to stop before its last step; its state is saved."""

    code = "training_interrupted"
    status = 409


class RequirementNotMet(HotswapError):
    """The version was pushed, but what was required of it does not hold: the alias stays."""

    code = "requirement_not_met"
    status = 409


class ReportUnreadable(HotswapError):
    """A job's process wrote a line that is no report."""

    code = "job_report_unreadable"


class ResumeRefused(Conflict):
    """A run is to go on with something else than it was started with."""

    code = "resume_refused"
