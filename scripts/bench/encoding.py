"""Runs `bench.retrieval.encoding`."""

from bench.retrieval.encoding import main

if __name__ == "__main__":
    main()
