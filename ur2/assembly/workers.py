"""From typed options to running engines and retrieval, for training and evaluation alike."""

from collections.abc import Sequence

from ur2.config.schema import InferenceOptions
from ur2.retrieval.client.retriever import HttpTransport, Passages, RetrievalClient, Retriever
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.retrieval.reading.summarise import Summariser
from ur2.retrieval.web.search import WebRetriever
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.trace import Trace
from ur2.trainer.cluster.actors import (
    Actor,
    ActorTransport,
    RemoteRollouts,
    RetrievalProcess,
    RolloutProcess,
)
from ur2.trainer.cluster.ray_cluster import Cluster, Seat
from ur2.types import RetrievalFailed


class NoRetriever:
    """Stands in where no episode may search."""

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None = None
    ) -> list[Passages | RetrievalFailed]:
        """Fails every query."""
        return [RetrievalFailed(reason="there is no retriever") for _ in queries]


def make_service(options: InferenceOptions, cluster: Cluster) -> Actor | None:
    """The retrieval service of this cluster, not started; None where one runs elsewhere."""
    retrieval = options.retrieval
    if retrieval.backend != "actor":
        return None
    return cluster.actor(RetrievalProcess, retrieval.folders, retrieval)


def make_retriever(options: InferenceOptions, service: Actor | None) -> Retriever:
    """A client of `service`, of the one at `retrieval.url`, or of a provider of web search.

    Raises:
        InputError: an address is malformed.
    """
    retrieval = options.retrieval
    if retrieval.backend == "none":
        return NoRetriever()
    if retrieval.backend == "web" and retrieval.web is not None:
        return WebRetriever(retrieval.web)
    transport = (
        HttpTransport(str(retrieval.url), retrieval.token)
        if service is None
        else ActorTransport(service)
    )
    return RetrievalClient(
        transport,
        deadline_s=retrieval.deadline_s,
        max_retries=retrieval.max_retries,
        breaker_failures=retrieval.breaker_failures,
        breaker_rest_s=retrieval.breaker_rest_s,
        max_query_chars=retrieval.max_query_chars,
    )


def make_knowledge(options: InferenceOptions, retriever: Retriever) -> RoutedKnowledge:
    """The knowledge that episodes ask: passages of `retriever`, read for them where so configured.

    Raises:
        InputError: a model that reads has no address.
    """
    retrieval = options.retrieval
    return RoutedKnowledge(
        retriever=retriever,
        top_k=retrieval.top_k,
        routes=retrieval.routes,
        summariser=Summariser(retrieval.summariser) if retrieval.summariser else None,
    )


def num_engines(options: InferenceOptions) -> int:
    """Engines that need a seat; those of a remote endpoint have theirs elsewhere."""
    return 0 if options.rollout.engine.name == "remote" else options.rollout.num_workers


def make_rollouts(
    options: InferenceOptions,
    cluster: Cluster,
    retriever: Retriever,
    seats: Sequence[Seat],
    *,
    dtype: str,
    gpus: Sequence[Sequence[str]] = (),
    trace: Trace = lambda *_: None,
) -> RolloutPool:
    """The rollout workers, not started.

    Args:
        options: engine, prompts and budgets.
        cluster: where they run.
        retriever: where their episodes search.
        seats: one per engine.
        dtype: a torch dtype's name.
        gpus: the policy ranks' GPUs that each engine shares; none where it has its own.
        trace: told of what each worker does when.
    """
    engine = options.rollout.engine
    knowledge = make_knowledge(options, retriever)

    def make(number: int) -> RemoteRollouts:
        actor = cluster.actor(
            RolloutProcess,
            options.rollout,
            options.prompt,
            options.environment,
            model_path=options.model.path,
            revision=options.model.revision,
            dtype=dtype,
            knowledge=knowledge,
            seed=options.seed,
            number=number,
            seat=seats[number] if seats else None,
            gpus=gpus[number] if gpus else None,
        )
        return RemoteRollouts(actor)

    workers = [make(number) for number in range(options.rollout.num_workers)]

    async def respawn(number: int) -> RemoteRollouts:
        await cluster.stop([workers[number].actor])
        workers[number] = make(number)
        return workers[number]

    return RolloutPool(
        workers,
        options.rollout,
        trace=trace,
        respawn=None if engine.name == "remote" else respawn,
    )
