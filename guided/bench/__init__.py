"""The oracle bench: solvers, paths and guides judged on problems whose truth is known in closed form."""

from guided.bench.problems import Mixture, Problem, random_mixtures, standard
from guided.bench.table import NFE, Table, measure

__all__ = ["NFE", "Mixture", "Problem", "Table", "measure", "random_mixtures", "standard"]
