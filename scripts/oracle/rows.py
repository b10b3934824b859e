"""One comparison: a number that is expected to be 0, or a known difference and its reason."""

from dataclasses import dataclass

from torch import Tensor

TOLERANCE = 2e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Our result beside another implementation's."""

    what: str
    oracle: str
    difference: float
    known: str = ""
    """Why the two differ, where they do on purpose."""

    @property
    def agrees(self) -> bool:
        """Whether the difference is rounding."""
        return self.difference <= TOLERANCE


def row(what: str, oracle: str, ours: Tensor, theirs: Tensor, known: str = "") -> Row:
    """The largest absolute difference of two arrays of one shape."""
    if ours.shape != theirs.shape:
        raise ValueError(f"{what}: {tuple(ours.shape)} beside {tuple(theirs.shape)}")
    difference = float((ours.double() - theirs.double()).abs().max())
    return Row(what=what, oracle=oracle, difference=difference, known=known)
