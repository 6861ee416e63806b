"""The paper's experiments, Tables 2-6: the rows our system can run, run where they are missing, beside the published numbers."""

from taudl_dist.reproduce.experiment import Experiment, Outcome, run_experiment
from taudl_dist.reproduce.result import Result, summarise
from taudl_dist.reproduce.tables import TABLES, Row, Table

__all__ = ["TABLES", "Experiment", "Outcome", "Result", "Row", "Table", "run_experiment", "summarise"]
