"""Writes test/golden/ridge.json: a ridge regression that numpy solves, for test/models/ridge-regression.test.ts.

Run: $(scripts/python-env.sh) scripts/golden/ridge.py
"""
import json
import pathlib

import numpy

OUT = pathlib.Path(__file__).resolve().parents[2] / "test" / "golden" / "ridge.json"


def main():
    random = numpy.random.default_rng(11)
    x = random.standard_normal((11, 7)).round(6)
    y = random.standard_normal((11, 3)).round(6)
    penalties = numpy.array([0.5, 0.5, 0.5, 0.5, 0.5, 1e-3, 2.0])
    # Least squares on rows extended by the penalties' roots: another way than the normal equations.
    extended = numpy.vstack([x, numpy.diag(numpy.sqrt(penalties))])
    solution = numpy.linalg.lstsq(extended, numpy.vstack([y, numpy.zeros((7, 3))]), rcond=None)[0]
    values = {"x": x.tolist(), "y": y.tolist(), "penalties": penalties.tolist(), "map": solution.tolist()}
    OUT.write_text(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
