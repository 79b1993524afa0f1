"""A job's reports as events that a person can read and a program can plot."""

from __future__ import annotations

from hotswap.training.jobs.events import EventLog
from hotswap.training.jobs.reports import Checked, Report, Started, Stepped, Validated


def narrate(report: Report, events: EventLog) -> None:
    """Append what the report means. How a job ended is for who knows it to say."""
    match report:
        case Checked():
            rows = f"{report.num_train_rows} rows to train on"
            events.append(f"Files validated: {rows}, {report.num_validation_rows} to validate")
            for text in report.warnings:
                events.append(text, "warn")
            if more := report.num_warnings - len(report.warnings):
                events.append(f"{more} more warnings about the data", "warn")
        case Started():
            events.append(f"Fine-tuning job started: {report.num_steps} steps in all")
        case Stepped():
            events.append(
                f"Step {report.step}: training loss={report.loss:.4f}",
                step=report.step,
                train_loss=report.loss,
                train_mean_token_accuracy=report.token_accuracy,
            )
        case Validated():
            events.append(
                f"Step {report.step}: validation loss={report.loss:.4f}",
                step=report.step,
                valid_loss=report.loss,
                valid_mean_token_accuracy=report.token_accuracy,
            )
