"""`python -m ur2.launch.job job.address=URL +experiment=NAME [key=value ...]`: a run as a ray job.

scripts/launch_ray_job.sh calls this; keys that begin with `job.` are its own, all others the run's.
"""

import asyncio
import shlex
import signal
import sys
from pathlib import Path

from ray.job_submission import JobInfo, JobStatus, JobSubmissionClient

from ur2.errors import EXIT_INTERRUPTED, ComponentError, run_entry
from ur2.launch.needs import compose_first
from ur2.launch.nodes import passed_on
from ur2.launch.options import JobOptions
from ur2.launch.words import ROOT_VARIABLE, enter_root, split_words
from ur2.options import parse_command_line

POLL_S = 1.0


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
    sys.exit(asyncio.run(run_job(options, overrides)))


async def run_job(options: JobOptions, overrides: list[str]) -> int:
    """Submits the run, shows its log, and stops it when this is stopped.

    Returns:
        The run's exit code.

    Raises:
        ComponentError: there is no cluster that takes jobs, or the job could not be started.
    """
    try:
        client = JobSubmissionClient(options.address)
        job = client.submit_job(
            entrypoint=entrypoint(options, overrides), runtime_env=runtime_env(options)
        )
    except (ConnectionError, RuntimeError) as error:
        raise ComponentError(
            f"the cluster at {options.address} takes no jobs ({error}); check the address, "
            "and that ray[default] is installed there"
        ) from error
    sys.stderr.write(f"▸ job {job} at {options.address}\n")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, client.stop_job, job)
    async for text in client.tail_job_logs(job):
        sys.stdout.write(text)
        sys.stdout.flush()
    info = await _ended(client, job)
    if info.status is JobStatus.STOPPED:
        return EXIT_INTERRUPTED
    if info.driver_exit_code is None:
        raise ComponentError(f"job {job} was not started: {info.message}")
    return int(info.driver_exit_code)


async def _ended(client: JobSubmissionClient, job: str) -> JobInfo:
    while True:  # its log may end before its status is known
        info = client.get_job_info(job)
        if info.status.is_terminal():
            return info
        await asyncio.sleep(POLL_S)


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
    is_path = not options.upload and "/" in options.python and " " not in options.python
    return str(Path(_root(options), options.python)) if is_path else options.python


def _root(options: JobOptions) -> str:
    return options.root or str(Path.cwd())


if __name__ == "__main__":
    run_entry(main)
