"""Assumed, not measured: what a 7B model costs on nodes of 8 H100, worked out from data sheets.

The shape of a node is that of `configs/experiment/medqa_qwen7b.yaml`: 4 policy ranks (ZeRO-2, bf16,
4 optimizer steps per rollout, gradient checkpointing) and 2 engines with tensor parallel 2; the
batch is one of its optimizer steps per node, 256 trajectories.

Hardware. H100 SXM (NVIDIA's data sheet): 989 TFLOP/s bf16 dense, 3.35 TB/s HBM3, NVLink 900 GB/s
both ways. DGX H100: 8 ports of 400 Gb/s. We count 80% of memory bandwidth and of ports, 50% of
FLOP/s where prompts are read, 40% where the policy is trained; the four ports next to the policy's
GPUs carry its traffic.

Model. Qwen2.5-7B (its config.json): 7.62e9 parameters, 0.54e9 of them embeddings, which are looked
up, so that 7.07e9 take part in products; 28 layers, 4 KV heads of 128: 28·2·4·128·2 B = 57,344 B of
cache per token.

Engine, per step on 2 GPUs: weights 15.2 GB / 2 / 2.68 TB/s = 2.8 ms; 56 all-reduces of 10 µs; 1 ms
of scheduler, launches and sampling. Per sequence 2·7.07e9 / 2 / 495e12 = 14 µs; per token of
context 57,344 / 2 / 2.68e12 = 11 ns; per token of prompt 14 µs; per request 0.3 ms of its process.

Update, per token: 6·7.07e9 FLOP, and 2·7.07e9 for checkpointing, at 396 TFLOP/s = 143 µs; old
log-probabilities 2·7.07e9 = 36 µs. Per optimizer step of n ranks: reduce-scatter and all-gather of
15.2 GB over a ring at 4·40 GB/s, (n−1)/n of it each (370 GB/s within one node), and 2·16 buckets of
n−1 hops of 10 µs; Adam moves 26 bytes per parameter of a rank's share.

Weights over the network: a broadcast of 15.2 GB at 40 GB/s, pipelined, and 0.6 s in which engines
take them. Through files: written at 4 GB/s and read by each node at 8 GB/s, by all of them together
at 40 GB/s per 32 nodes, the middle level of storage that NVIDIA asks of a DGX SuperPOD.

Colocated (`sync` only): 8 ranks and 4 engines per node on the same 8 GPUs, whose 8 ports all carry
the policy's traffic. Engines copy the weights out of the ranks' memory in 0.6 s, and memory changes
hands twice per step, 1 s each.

Retrieval: one replica per node that answers as this project's service does on two cores (474
queries/s, batches of 128), and then a lognormal latency with median 0.3 s and p99 3 s, as of a
remote service.

Trajectories: a turn before a search has lognormal length with median 300 tokens, the last one 500
(σ 0.8, at most 1,536); 70% of the groups may search, and then 0 to 4 times (20, 40, 25, 10, 5%) for
lognormal documents with median 500 tokens (σ 0.5, at most 4,096); prompts have 300. 30% of the
groups carry no signal.
"""

import math
from bisect import bisect
from random import Random

from bench.simulator.parts import Costs, DriverCosts, EngineCosts, RetrievalCosts, UpdateCosts
from bench.simulator.worker import Shape, Turn
from ur2.policy.batch.packing import ATTENTION_SPAN
from ur2.types import Assignment

GPUS_PER_NODE = 8
GPUS_PER_ENGINE = 2
OPTIMIZER_STEPS = 4
QUESTIONS_PER_NODE = 16
SAMPLES_PER_PROMPT = 16
FLOPS = 989e12
MEMORY_BYTES_PER_S = 0.8 * 3.35e12
PORT_BYTES_PER_S = 0.8 * 50e9
NVLINK_BYTES_PER_S = 370e9
PARAMETERS = 7.62e9
IN_PRODUCTS = 7.07e9
WEIGHT_BYTES = 2 * PARAMETERS
CACHE_BYTES = 57_344
TAKE_S = 0.6
SWITCH_S = 1.0
HOP_S = 10e-6
BUCKETS = 16
MEDIAN_SEARCH_TURN, MEDIAN_LAST_TURN, TURN_SIGMA, MAX_TURN = 300, 500, 0.8, 1536
MEDIAN_DOCUMENTS, DOCUMENTS_SIGMA, MAX_DOCUMENTS = 500, 0.5, 4096
PROMPT_TOKENS = 300
AT_MOST = (0.20, 0.60, 0.85, 0.95)
"""Share of the trajectories that search at most 0, 1, 2, 3 times; the others 4 times."""
RETRIEVAL_SHARE = 0.7
INFORMATIVE_SHARE = 0.7
LATENCY_MEDIAN_S, LATENCY_P99_S = 0.3, 3.0
QUERIES_PER_S = 474


class Trajectories:
    """The workload."""

    def shapes(self, assignment: Assignment, num_samples: int, rng: Random) -> list[Shape]:
        searches = rng.random() < RETRIEVAL_SHARE
        return [_shape(rng, searches=searches) for _ in range(num_samples)]

    def is_informative(self, assignment: Assignment, rng: Random) -> bool:
        return rng.random() < INFORMATIVE_SHARE


def _shape(rng: Random, *, searches: bool) -> Shape:
    num_searches = bisect(AT_MOST, rng.random()) if searches else 0
    before = (
        Turn(
            _length(rng, MEDIAN_SEARCH_TURN, TURN_SIGMA, MAX_TURN),
            _length(rng, MEDIAN_DOCUMENTS, DOCUMENTS_SIGMA, MAX_DOCUMENTS),
        )
        for _ in range(num_searches)
    )
    last = Turn(_length(rng, MEDIAN_LAST_TURN, TURN_SIGMA, MAX_TURN), None)
    return Shape(PROMPT_TOKENS, (*before, last))


def _length(rng: Random, median: float, sigma: float, most: int) -> int:
    return min(max(round(median * math.exp(sigma * rng.gauss(0.0, 1.0))), 1), most)


def latency_s(rng: Random) -> float:
    sigma = math.log(LATENCY_P99_S / LATENCY_MEDIAN_S) / 2.326
    return LATENCY_MEDIAN_S * math.exp(sigma * rng.gauss(0.0, 1.0))


def num_engines(num_gpus: int, *, colocated: bool = False) -> int:
    return num_gpus // GPUS_PER_ENGINE // (1 if colocated else 2)


def costs(
    num_gpus: int, driver: DriverCosts, *, files: bool = False, colocated: bool = False
) -> Costs:
    """Of the whole machine; what the driver costs is measured."""
    num_nodes = num_gpus // GPUS_PER_NODE
    publish_s, load_s = _through_files(num_nodes) if files else _over_network()
    if colocated:
        publish_s, load_s = 0.0, TAKE_S + 2 * SWITCH_S
    return Costs(
        engine=_engine(),
        retrieval=RetrievalCosts(
            latency_s=latency_s, num_replicas=num_nodes, query_s=1.0 / QUERIES_PER_S
        ),
        update=_update(num_gpus if colocated else num_gpus // 2, num_nodes),
        driver=driver,
        publish_s=publish_s,
        load_s=load_s,
    )


def _engine() -> EngineCosts:
    per_token_s = 2 * IN_PRODUCTS / GPUS_PER_ENGINE / (0.5 * FLOPS)
    return EngineCosts(
        step_s=WEIGHT_BYTES / GPUS_PER_ENGINE / MEMORY_BYTES_PER_S + 56 * HOP_S + 1e-3,
        sequence_s=per_token_s,
        context_s=CACHE_BYTES / GPUS_PER_ENGINE / MEMORY_BYTES_PER_S,
        request_s=0.3e-3,
        prefill_s=per_token_s,
    )


def _update(num_ranks: int, num_nodes: int) -> UpdateCosts:
    ports_bytes_per_s = num_ranks // num_nodes * PORT_BYTES_PER_S
    ring_bytes_per_s = ports_bytes_per_s if num_nodes > 1 else NVLINK_BYTES_PER_S
    moved_bytes = 2 * WEIGHT_BYTES * (num_ranks - 1) / num_ranks
    adam_s = 26 * PARAMETERS / num_ranks / MEMORY_BYTES_PER_S
    hops_s = 2 * BUCKETS * (num_ranks - 1) * HOP_S
    return UpdateCosts(
        fixed_s=moved_bytes / ring_bytes_per_s + hops_s + adam_s,
        token_s=8 * IN_PRODUCTS / (0.4 * FLOPS),
        old_token_s=2 * IN_PRODUCTS / (0.4 * FLOPS),
        num_ranks=num_ranks,
        num_steps=OPTIMIZER_STEPS,
        attention_span=ATTENTION_SPAN,
    )


def _over_network() -> tuple[float, float]:
    """Seconds before and while engines stand still."""
    return 0.0, WEIGHT_BYTES / PORT_BYTES_PER_S + TAKE_S


def _through_files(num_nodes: int) -> tuple[float, float]:
    shared = 40e9 * -(-num_nodes // 32) / num_nodes
    return WEIGHT_BYTES / 4e9, WEIGHT_BYTES / min(8e9, shared) + TAKE_S
