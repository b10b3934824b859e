"""Options of the curriculum."""

from typing import Annotated, Literal

from pydantic import Field

from ur2.options import Options

PolicyName = Literal["never", "always", "static"]
BucketName = Annotated[str, Field(pattern=r"^(choice|qa|math)/(easy|medium|hard|very_hard)$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


class CurriculumOptions(Options):
    """Which questions are drawn, and when their groups may search. A bucket is task/level."""

    policy: PolicyName = "static"
    """Retrieval is on for no group (`never`), for all (`always`), or by `static`'s table."""
    static: dict[BucketName, Probability] = Field(default_factory=dict)
    """Of policy `static`: the probability per bucket that retrieval is on; 0 for others."""
    bucket_weights: dict[BucketName, Weight] = Field(default_factory=dict)
    """The mix of buckets, in any unit; buckets that are not named are not drawn. Empty: every
    bucket by its number of questions."""
