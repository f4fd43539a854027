"""What steps the weights, by the recipe's ``optimiser.name``, and their average."""

from .chosen import optimisers_of
from .optional import check_optimiser
from .schedule_free import average_of

__all__ = ["average_of", "check_optimiser", "optimisers_of"]
