"""SAEBench: its result files, read and written, and an SAE in the form that it takes."""

from saekit.evals.saebench.custom import custom_sae as custom_sae
from saekit.evals.saebench.reading import read as read
from saekit.evals.saebench.reading import read_all as read_all
from saekit.evals.saebench.side_by_side import side_by_side as side_by_side
from saekit.evals.saebench.writing import write as write
