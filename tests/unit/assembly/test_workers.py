from pathlib import Path
from types import SimpleNamespace

from ur2.assembly.workers import NoRetriever, make_rollouts
from ur2.config.load import compose


def test_engines_load_the_revision_that_the_policy_starts_from():
    asked = []

    def actor(kind, *args, **kwargs):
        asked.append((kwargs["model_path"], kwargs["revision"]))

    cluster = SimpleNamespace(actor=actor, weights_dir=Path("w"))
    given = ["+experiment=quickstart", "model.path=some/model", "model.revision=v2"]
    make_rollouts(compose(given), cluster, NoRetriever(), (), dtype="float32")
    assert asked == [("some/model", "v2")]
