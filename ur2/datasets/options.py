"""Options of the commands that make question files."""

from typing import Annotated

from pydantic import Field

from ur2.options import Options

Count = Annotated[int, Field(ge=1)]


class AtlasOptions(Options):
    """How much of the atlas world is written."""

    out: str = "data/atlas"
    """The folder to write."""
    seed: int = 0
    """Decides the held-out countries, the questions and the demonstrations."""
    num_cities: Count = 5000
    """The largest cities that become passages."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Countries kept, with all their cities, for the test questions."""
    num_train: Count = 3000
    """Training questions, a third per level."""
    num_test_per_level: Count = 320
    """Test questions of each level, all about held-out countries and cities."""
    num_skills: Count = 17600
    """Clean demonstrations."""
    num_habits: Count = 1920
    """Demonstrations with imperfect habits."""
    num_tokenizer_texts: Count = 6000
    """Examples about fictional entities among the texts for the tokenizer."""
    fictional_share: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Clean demonstrations about entities made up anew, which teach copying."""
