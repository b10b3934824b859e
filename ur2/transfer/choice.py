"""Which way weights take, from what runs where."""

from typing import Literal

from ur2.errors import InputError

Way = Literal["files", "nccl", "tcp", "ipc"]
WeightTransfer = Literal["auto", "files", "nccl", "tcp", "ipc"]


def choose(wanted: WeightTransfer, *, engine: str, on_gpu: bool, colocated: bool) -> Way:
    """The way that `policy.weight_transfer` names, or the fastest that works.

    Args:
        wanted: the option.
        engine: `rollout.engine.name`.
        on_gpu: whether policy and engines are both on GPUs.
        colocated: whether they share them.

    Raises:
        InputError: what is wanted cannot work here.
    """
    fastest: Way = "files"
    if on_gpu and engine == "vllm":
        fastest = "ipc" if colocated else "nccl"
    if wanted == "auto":
        return fastest
    refusals = {
        "is for the vllm engine": wanted != "files" and engine != "vllm",
        "needs the policy and the engines on GPUs": wanted in ("nccl", "ipc") and not on_gpu,
        "joins CPUs": wanted == "tcp" and on_gpu,
        "needs the policy and the engines on the same GPUs": wanted == "ipc" and not colocated,
        "cannot join two processes on one GPU": wanted == "nccl" and colocated,
    }
    for reason, applies in refusals.items():
        if applies:
            raise InputError(
                f"policy.weight_transfer={wanted} {reason}: set it to {fastest}, or to auto"
            )
    return wanted
