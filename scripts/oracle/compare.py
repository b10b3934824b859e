"""How far our maths is from verl's and TRL's; scripts/oracle.sh runs it in their environment."""

import json
import sys

import with_trl
import with_verl
from arrays import make_arrays
from rows import TOLERANCE


def main() -> int:
    """Prints the table, and one line of JSON; 1 where something differs that is not known to."""
    arrays = make_arrays(0)
    table = [*with_verl.rows(arrays), *with_trl.rows(arrays)]
    print("| what | beside | largest difference | |\n|---|---|---|---|")
    for row in table:
        verdict = "" if row.agrees else (row.known or "DIFFERS")
        print(f"| {row.what} | {row.oracle} | {row.difference:.1e} | {verdict} |")
    unknown = [row.what for row in table if not row.agrees and not row.known]
    figures = {
        "name": "oracle",
        "num_compared": len(table),
        "num_known_differences": sum(not row.agrees and bool(row.known) for row in table),
        "num_differences": len(unknown),
        "max_difference": max(row.difference for row in table if not row.known),
        "tolerance": TOLERANCE,
    }
    print(json.dumps(figures))
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
