"""A run that goes on must find its objective as it was: options, and what their names stand for.

An option is *free* (it decides nothing that is learned), *warned* of (a change that a user may
want), or *refused* (the objective would be another one, and no curve would show it). Files are
compared by fingerprints, which the checkpoint keeps.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Literal

from ur2.config.preflight import make_openings
from ur2.config.schema import RunOptions
from ur2.errors import InputError
from ur2.types import Question

Rule = Literal["free", "warn", "refuse"]

RULES: Mapping[str, Rule] = {
    "": "warn",
    "seed": "refuse",  # the questions still to come would be others
    "model": "refuse",
    "model.shape": "free",  # of estimates only
    "environment.name": "refuse",
    "environment.toolbox": "warn",
    "algorithm.estimator": "refuse",
    "algorithm.credit": "refuse",
    "policy.lora": "refuse",
    "policy.optimizer": "refuse",  # its states are in the checkpoint
    "cluster": "free",
    "prepare": "free",
    "coldstart": "free",
    "trainer.steps": "free",
    "trainer.checkpoint_every": "free",
    "trainer.keep_checkpoints": "free",
    "trainer.eval_every": "free",
    "trainer.dump_trajectories": "free",
    "trainer.trackers": "free",
    "trainer.wandb_project": "free",
    "trainer.wandb_mode": "free",
    "rollout.num_workers": "free",
    "rollout.overcommit": "free",
    "rollout.max_worker_restarts": "free",
    "rollout.generate_timeout_s": "free",
    "rollout.group_timeout_s": "free",
    "rollout.update_timeout_s": "free",
}
"""By option, or by the options below one; the longest that fits holds."""
UNDER_A_SCHEDULE: Mapping[str, Rule] = {
    "trainer.steps": "refuse",
    "policy.updates_per_rollout": "refuse",
    "policy.schedule": "refuse",
}
"""Further rules where the learning rate depends on the number of steps: it would jump."""

FILES: Mapping[str, Sequence[str]] = {
    "weights": ("*.safetensors", "*.bin", "config.json"),
    "tokenizer": ("tokenizer*", "vocab*", "merges*", "*.model", "added_tokens.json"),
    "chat template": ("chat_template*",),
    "generation config": ("generation_config.json",),
}
"""Files of a model folder, by what they decide."""
NUM_BLOCKS, BLOCK_BYTES = 64, 1 << 16


def refuse_changes(changed: Iterable[str], options: RunOptions, *, of: str) -> list[str]:
    """The changed options that the user is to be told of.

    Args:
        changed: dotted keys.
        options: the run's, as they are now.
        of: what was made under the others, for the message.

    Raises:
        InputError: some must not change.
    """
    scheduled = options.policy.schedule != "constant"
    rules = {**RULES, **(UNDER_A_SCHEDULE if scheduled else {})}
    by_rule: dict[Rule, list[str]] = {"free": [], "warn": [], "refuse": []}
    for key in changed:
        above = [rule for rule in rules if not rule or key == rule or key.startswith(f"{rule}.")]
        by_rule[rules[max(above, key=len)]].append(key)
    if by_rule["refuse"]:
        raise InputError(
            f"{of} was made with other values of {', '.join(by_rule['refuse'])}: set them as they "
            "were, or start anew with resume=none (and another run_dir); "
            "model.path=CHECKPOINT/model starts from its weights"
        )
    return by_rule["warn"]


def dated(options: RunOptions, kept: Mapping[str, str]) -> RunOptions:
    """The options with the date that chat templates are told: the one the run began with."""
    asked = options.prompt.date
    day = asked or (date.fromisoformat(kept["date"]) if "date" in kept else date.today())
    prompt = options.prompt.model_copy(update={"date": day})
    return options.model_copy(update={"prompt": prompt})


def fingerprint(options: RunOptions, questions: Sequence[Question]) -> dict[str, str]:
    """Digests of what the objective rests on, and the date that chat templates are told.

    The weights are those of the policy's base and of the reference. Of a file above 4 MiB, 64
    evenly spread blocks are read: training changes them all, and a whole read of a large model
    takes minutes. A Hugging Face name is as good as its commit.

    Args:
        options: the run's, with a date.
        questions: the first of each task is rendered.

    Raises:
        InputError: as `make_openings`.
    """
    model, openings = options.model, make_openings(options)
    folder = Path(model.path)
    prints = {"date": str(options.prompt.date)}
    if folder.is_dir():
        for what, patterns in FILES.items():
            files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
            prints[what] = _digest(part for file in files for part in _sample_of(file))
    else:
        prints["revision"] = _commit(model.path, model.revision)
    for task, question in sorted({q.task: q for q in reversed(questions)}.items()):
        for retrieval, mode in ((True, "on"), (False, "off")):
            ids = openings.prompt(question, retrieval).token_ids
            prints[f"prompt ({task}, retrieval {mode})"] = _digest([json.dumps(ids).encode()])
    return prints


def refuse_other_inputs(kept: Mapping[str, str], found: Mapping[str, str], *, of: str) -> None:
    """Raises an InputError where a fingerprint differs from the one that a checkpoint keeps."""
    changed = [name for name in kept if kept[name] != found.get(name)]
    if changed:
        raise InputError(
            f"{of} was made with another {', another '.join(changed)} than model.path and prompt "
            "give now: put back what was there, or start anew with resume=none (and another "
            "run_dir); model.path=CHECKPOINT/model starts from its weights"
        )


def _sample_of(file: Path) -> Iterable[bytes]:
    """A file's name and size, and its bytes or blocks of them."""
    size = file.stat().st_size
    yield f"{file.name} {size}".encode()
    with file.open("rb") as content:
        if size <= NUM_BLOCKS * BLOCK_BYTES:
            yield content.read()
            return
        for block in range(NUM_BLOCKS):
            content.seek((size - BLOCK_BYTES) * block // (NUM_BLOCKS - 1))
            yield content.read(BLOCK_BYTES)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _commit(name: str, revision: str | None) -> str:
    """The commit of a Hugging Face name that is in the cache."""
    from transformers.utils.hub import cached_file

    found = cached_file(name, "config.json", revision=revision)
    return Path(found).parent.name if found else ""
