"""`python scripts/bench/math_golds.py` runs `bench.math_golds`."""

from bench.math_golds import main

if __name__ == "__main__":
    main()
