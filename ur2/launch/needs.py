"""From a run's command line to what it needs of every node."""

from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from ur2.config.load import compose
from ur2.config.preflight import Input, check_options, find_inputs, num_gpus
from ur2.config.problems import weight_transfer
from ur2.config.schema import RunOptions
from ur2.datasets.sources import local_path
from ur2.errors import InputError
from ur2.launch.options import PreflightOptions
from ur2.launch.preflight import Needs
from ur2.plugins import packages_in

SWEEP = ("-m", "--multirun")


def compose_first(overrides: list[str]) -> RunOptions:
    """The options of a command line; of a sweep, those of its first job.

    Raises:
        InputError: they do not compose, or contradict one another.
    """
    first = [word for word in overrides if word not in SWEEP]
    if len(first) < len(overrides):
        try:
            parsed = OverridesParser.create().parse_overrides(first)
        except OverrideParseException as error:
            raise InputError(f"cannot read '{error.override}' as key=value") from error
        first = [
            f"{o.get_key_element()}={next(o.sweep_string_iterator())}"
            if o.is_sweep_override()
            else str(o.input_line)
            for o in parsed
        ]
    options = compose(first)
    check_options(options)
    return options


def needs_of(run: RunOptions, options: PreflightOptions, num_nodes: int) -> Needs:
    """The files, folders and versions that the nodes must have and share.

    Raises:
        InputError: weights have no shared folder.
    """
    shared = {_base(run): "run_dir"} | dict.fromkeys(options.shared, "shared")
    inputs, hub_models = {}, []
    for item in find_inputs(run):
        if item.state == "on the hub":
            hub_models += [item.path] if item.key == "model.path" else []
        elif item.state == "to be made":
            shared.setdefault(str(_existing(Path(item.path))), item.key)
        else:
            inputs[_file(item)] = item.key
    if run.cluster.weights_dir is not None:
        shared[run.cluster.weights_dir] = "cluster.weights_dir"
    elif num_nodes > 1 and weight_transfer(run) == "files":
        raise InputError(
            "cluster.weights_dir is not set: weights would pass through one node's memory; name a "
            "folder that all nodes share, or choose another policy.weight_transfer"
        )
    return Needs(
        inputs=inputs,
        shared=shared,
        hub_models=hub_models,
        num_gpus=num_gpus(run),
        plugins=sorted(set(packages_in(run.model_dump(mode="json")))),
    )


def _file(item: Input) -> str:
    """The file or folder itself, without what its name says of its rows."""
    if Path(item.path).exists():  # a name that says nothing more
        return item.path
    return local_path(item.path) or item.path


def _base(run: RunOptions) -> str:
    """Where the run directory is, or will be made."""
    return run.run_dir or str(Path("runs", run.experiment))


def _existing(path: Path) -> Path:
    """The innermost folder around a path that is here."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())
