"""`python -m ur2.launch.job job.address=URL +experiment=NAME [key=value ...]`: a run as a ray job.

scripts/launch_ray_job.sh calls this; keys that begin with `job.` are its own, all others the run's.
"""

import asyncio
import logging
import os
import secrets
import shlex
import signal
import sys
import time
from pathlib import Path

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobInfo, JobStatus, JobSubmissionClient

from ur2.errors import EXIT_INTERRUPTED, ComponentError, run_entry
from ur2.launch.needs import compose_first
from ur2.launch.nodes import passed_on
from ur2.launch.options import JobOptions
from ur2.launch.words import ROOT_VARIABLE, enter_root, split_words
from ur2.options import parse_command_line

POLL_S = 1.0
PATIENCE_S = 120.0
"""Longest time without an answer of the cluster; its dashboard may start anew."""
STOPS = (signal.SIGINT, signal.SIGTERM)
FAILURES = (OSError, RuntimeError, ValueError, RayError, aiohttp.ClientError)
"""Failures of ray's client, of `requests` and of the log's websocket."""
RAYS_OWN_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that ray would obey in place of the address that was named."""


def main() -> None:
    """Runs the command line."""
    own, overrides = split_words(sys.argv[1:], "job.")
    options = parse_command_line(
        JobOptions,
        prog="python -m ur2.launch.job",
        about="Trains on a ray cluster that is up already. Write the keys below with `job.` before "
        "them, as in job.upload=true; all other words go to python -m ur2.train.",
        argv=own,
    )
    compose_first(overrides)  # a wrong command line is told at once
    sys.exit(asyncio.run(run_job(connect(options), options, overrides)))


def connect(options: JobOptions) -> JobSubmissionClient:
    """Reaches the cluster.

    Raises:
        ComponentError: there is none that takes jobs.
    """
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    for variable in RAYS_OWN_ADDRESSES:
        os.environ.pop(variable, None)
    try:
        return JobSubmissionClient(options.address)
    except FAILURES as error:
        raise _takes_no_jobs(options, error) from error


async def run_job(client: JobSubmissionClient, options: JobOptions, overrides: list[str]) -> int:
    """Submits the run, shows its log, and stops it when this is stopped.

    Returns:
        The run's exit code.

    Raises:
        ComponentError: the job could not be started, or the cluster does not answer any more.
    """
    job = f"ur2-{secrets.token_hex(8)}"

    def stop() -> None:
        sys.stderr.write(f"▸ stopping job {job}\n")
        try:
            client.stop_job(job)
        except FAILURES as error:
            sys.stderr.write(f"▸ it could not be stopped: {error}\n")

    for number in STOPS:  # a stop while the job is being submitted is carried out after it
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        client.submit_job(
            submission_id=job,
            entrypoint=entrypoint(options, overrides),
            runtime_env=runtime_env(options),
        )
    except FAILURES as error:
        raise _takes_no_jobs(options, error) from error
    sys.stderr.write(f"▸ job {job} at {options.address}\n")
    info = await _follow(client, options, job)
    if info.status is JobStatus.STOPPED:
        return EXIT_INTERRUPTED
    if info.driver_exit_code is None:
        raise ComponentError(f"job {job} was not started: {info.message}")
    return int(info.driver_exit_code)


async def _follow(client: JobSubmissionClient, options: JobOptions, job: str) -> JobInfo:
    """Shows a job's log until the job ends, also over connections that break."""
    num_shown, broken_since_s = 0, None
    while True:
        try:
            num_seen = 0  # each connection begins with the log's beginning
            async for text in client.tail_job_logs(job):
                sys.stdout.write(text[max(0, num_shown - num_seen) :])
                sys.stdout.flush()
                num_seen += len(text)
                num_shown, broken_since_s = max(num_shown, num_seen), None
            info = client.get_job_info(job)
        except BrokenPipeError:  # of our own output
            raise
        except FAILURES as error:
            broken_since_s = broken_since_s or time.monotonic()
            if time.monotonic() > broken_since_s + PATIENCE_S:
                raise ComponentError(
                    f"the cluster at {options.address} has not answered for {PATIENCE_S:g} s "
                    f"({error}); job {job} may run on: look at the dashboard"
                ) from error
        else:
            if info.status.is_terminal():
                return info
            broken_since_s = None
        await asyncio.sleep(POLL_S)


def _takes_no_jobs(options: JobOptions, error: Exception) -> ComponentError:
    return ComponentError(
        f"the cluster at {options.address} takes no jobs ({error}); check the address, and that "
        "ray[default] is installed there"
    )


def entrypoint(options: JobOptions, overrides: list[str]) -> str:
    """The shell command of the job: the nodes are checked, then the run takes the process over."""
    words = shlex.join([options.model_dump_json(), *overrides])
    command = f"exec {_python(options)} -m ur2.launch.inside {words}"
    return command if options.upload else f"cd {shlex.quote(_root(options))} && {command}"


def runtime_env(options: JobOptions) -> dict[str, object]:
    """Where and with which variables ray runs the job."""
    variables = {
        **passed_on(options.env),
        "RAY_JOB_STOP_WAIT_TIME_S": str(int(options.checkpoint_timeout_s)),
    }
    environment: dict[str, object] = {"env_vars": variables, "py_executable": _python(options)}
    if options.upload:
        environment["working_dir"] = str(Path.cwd())
    else:  # ray's workers would run wherever their node's ray was started
        variables |= {ROOT_VARIABLE: _root(options), "PYTHONPATH": _root(options)}
        environment["worker_process_setup_hook"] = f"{enter_root.__module__}.{enter_root.__name__}"
    return environment


def _python(options: JobOptions) -> str:
    """As a shell reads it."""
    is_path = not options.upload and "/" in options.python and " " not in options.python
    return shlex.quote(str(Path(_root(options), options.python))) if is_path else options.python


def _root(options: JobOptions) -> str:
    return options.root or str(Path.cwd())


if __name__ == "__main__":
    run_entry(main)
