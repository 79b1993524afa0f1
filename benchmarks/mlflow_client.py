"""The same work on MLflow's registry; run by an interpreter that has mlflow, not by ours.

    python mlflow_client.py URL NUM_LISTED DIRECTORY …

Prints one line of JSON: the seconds of every call.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request

from mlflow import MlflowClient

START_TIMEOUT_S = 120


def main(url: str, num_listed: int, directories: list[str]) -> None:
    wait_until_answering(url)
    client = MlflowClient(tracking_uri=url, registry_uri=url)
    for i in range(num_listed):
        client.create_registered_model(f"listed-{i:03}")
    client.create_registered_model("sql")
    times: dict[str, list[float]] = {
        "register": [],
        "resolve an alias": [],
        f"list {num_listed}": [],
    }
    for directory in directories:
        start = time.perf_counter()
        register(client, directory)
        times["register"].append(time.perf_counter() - start)
        start = time.perf_counter()
        client.get_model_version_by_alias("sql", "prod")
        times["resolve an alias"].append(time.perf_counter() - start)
        start = time.perf_counter()
        assert len(client.search_registered_models(max_results=num_listed)) == num_listed
        times[f"list {num_listed}"].append(time.perf_counter() - start)
    print(json.dumps(times))


def register(client: MlflowClient, directory: str) -> None:
    run = client.create_run(experiment_id="0")
    client.log_artifacts(run.info.run_id, directory, "adapter")
    version = client.create_model_version(
        "sql",
        source=f"{run.info.artifact_uri}/adapter",
        run_id=run.info.run_id,
        await_creation_for=None,
    )
    client.set_registered_model_alias("sql", "prod", version.version)


def wait_until_answering(url: str) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
