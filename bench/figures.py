"""How every benchmark ends: where it ran, and its figures as one line of JSON."""

import json
from collections.abc import Mapping
from typing import Any

from ur2.processor import describe


def tell(name: str, figures: Mapping[str, Any]) -> None:
    """Prints the processor, then the figures, numbers of which are meant for programs."""
    print(f"processor: {describe()}")
    print(json.dumps({"name": name, **figures, "processor": describe()}))
