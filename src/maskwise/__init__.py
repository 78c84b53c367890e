"""Instance segmentation that knows how good its masks are."""

__version__ = "0.1.0"
