"""The record beside an index that says what made it; checked before anything is served."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ur2.errors import InputError
from ur2.retrieval.index.options import IndexKind, Quantiser, VectorKind
from ur2.retrieval.index.words import Language
from ur2.retrieval.partial import write_atomically, writing

MANIFEST_FILE = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EncoderSpec(_Record):
    """Which encoder, and the instructions it wants before each text."""

    name: str
    """`minilm`, or a sentence-transformers name or folder."""
    revision: str = ""
    """The version of a bundled encoder, the commit of one that was downloaded, or a hash of the
    weights of one in a folder; empty where none is asked for."""
    query_prefix: str = ""
    passage_prefix: str = ""

    def fitted_to(self, other: "EncoderSpec") -> "EncoderSpec":
        """This one, with the revision of the other where it asks for none."""
        return self.model_copy(update={"revision": self.revision or other.revision})


class VectorSpec(_Record):
    """How vectors are kept."""

    kind: VectorKind
    quantiser: Quantiser = "none"
    parameters: dict[str, int] = {}
    """By name, see `ur2.retrieval.index.rules`; one that is missing follows the rule."""


class LexicalSpec(_Record):
    """How words are counted."""

    k1: float = 0.9
    b: float = 0.4
    language: Language = "english"
    """The language of the stems and the stop words."""
    rule: Literal[2]
    """The rule of `ur2.retrieval.index.words` by which texts became terms."""


class IndexSpec(_Record):
    """Which kind of index, and what its parts are like."""

    kind: IndexKind
    vectors: VectorSpec | None = None
    """None for `lexical`."""
    lexical: LexicalSpec | None = None
    """For `lexical` and `hybrid`."""


class Tuning(_Record):
    """The measurement of `autotune`."""

    breadth: int
    recall: float
    """At `k`, against exact search."""
    target: float
    k: int
    num_queries: int


class SearchSpec(_Record):
    """How an index is searched; may change without another build."""

    breadth: int | None = None
    """Candidates (`hnsw`: efSearch) or lists (`ivf`, `ivf_pq`: nprobe) of a search; None: exact."""
    fusion_k: float = 60.0
    fusion_depth: int = 100
    tuning: Tuning | None = None


class Recipe(_Record):
    """Everything that decides what an index holds; equal recipes make equal indexes."""

    corpus_sha256: str
    encoder: EncoderSpec | None
    """None for a `lexical` index."""
    index: IndexSpec

    def fitted_to(self, other: "Recipe") -> "Recipe":
        """This one, with the encoder's revision of the other where it asks for none."""
        if self.encoder is None or other.encoder is None:
            return self
        return self.model_copy(update={"encoder": self.encoder.fitted_to(other.encoder)})

    @property
    def encoder_name(self) -> str:
        """A name for the encoder, also where there is none."""
        return self.encoder.name if self.encoder else "no"


class StoreManifest(_Record):
    """The content of an index folder, and what made it."""

    format: Literal[1] = 1
    recipe: Recipe
    metric: Literal["inner_product"] = "inner_product"
    dimension: int | None
    """The width of the vectors, if there are any."""
    num_passages: int
    parameters: dict[str, int] = {}
    """All those of the vectors' part, also what followed the rules."""
    search: SearchSpec = SearchSpec()
    versions: dict[str, str]
    """Versions of the libraries that made it, by package name."""

    @property
    def summary(self) -> str:
        """The content of the index in a few words."""
        encoder = self.recipe.encoder
        vectors = f"{self.dimension}-wide {encoder.name} vectors, " if encoder else ""
        return f"{self.num_passages} passages, {vectors}{self.recipe.index.kind} index"

    def save(self, folder: Path) -> None:
        """Writes the manifest into `folder`, in place of one that is there."""
        content = self.model_dump_json(indent=2) + "\n"
        with writing(folder / MANIFEST_FILE):
            write_atomically(folder / MANIFEST_FILE, content.encode())


def load_manifest(folder: Path) -> StoreManifest:
    """Reads the manifest of an index folder, without opening the index.

    Raises:
        InputError: `folder` holds no index, or one that this version cannot read.
    """
    path = folder / MANIFEST_FILE
    remedy = f"make one with `python -m ur2.retrieval.build corpus=PATH out={folder}`"
    try:
        return StoreManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{folder} is no index folder ({error.strerror}: {path.name}); {remedy}"
        ) from error
    except ValidationError as error:
        raise InputError(f"{path} cannot be read ({_first_problem(error)}); {remedy}") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
