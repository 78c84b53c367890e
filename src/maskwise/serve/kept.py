"""Of what a model finds, what was asked for; and whether there may be more than the model gives."""

from maskwise import predict
from maskwise.categories import Categories
from maskwise.serve.schema import Options
from maskwise.structures import Instances


class Kept:
    """The rule of the command line, called with what is in a picture or in each of its tiles."""

    def __init__(self, categories: Categories, options: Options, *, most: int | None) -> None:
        """`most`: instances that the model gives of what it is shown at once."""
        wanted = predict.Options(min_score=options.min_score, min_quality=options.min_quality)
        self._keep, self._least, self._most = predict.keeper(categories, wanted), options.min_score, most
        self.limit_reached: int | None = None
        """That number, once so many scored enough: those that the model left out may have, too."""

    def __call__(self, found: Instances) -> Instances:
        if self._most is not None and int((found.scores >= self._least).sum()) >= self._most:
            self.limit_reached = self._most
        return self._keep(found)
