"""Benchmarks: `make bench` runs them and writes their tables into docs/PERFORMANCE.md. No part of the tests.

Each module has `run(place) -> Table`; `__main__.py` lists them. `run` gets a `Place` to work in. Timing,
memory and child processes come from `measure.py`. A new benchmark is a module, a line in `__main__.py` and a
pair of `<!-- bench:name -->` markers in the document.
"""
