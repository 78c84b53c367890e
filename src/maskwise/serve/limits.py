"""How much the server takes on: of a request, of all of them together, and for how long."""

from dataclasses import dataclass, fields

MEBIBYTE = 2**20
_DAY = 86_400
_BOUNDS = {"max_wait_ms": (0, 60_000), "timeout": (0.001, _DAY), "body_timeout": (0.001, _DAY)}
"""Longer times are more than threads can wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Whatever is beyond them is refused with a reason before it costs memory."""

    max_body: int = 64 * MEBIBYTE
    """Bytes of a request."""
    max_pixels: int = 50_000_000
    """Of one picture, told by its header before it is decoded."""
    max_files: int = 16
    """Pictures in a request."""
    queue: int = 64
    """Pictures that were taken on and are not yet answered."""
    timeout: float = 60.0
    """Seconds from the last byte of a request to its answer."""
    body_timeout: float = 30.0
    """Seconds that a client may take to send a request."""
    max_batch: int = 8
    """Pictures that the model is given at once."""
    max_wait_ms: float = 5.0
    """How long an idle model waits for more pictures before it begins."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = _BOUNDS.get(field.name, (1, 2**63))
            if not least <= value <= most:
                raise ValueError(f"{field.name} must be a number from {least:,} to {most:,}, got {value}")

    @property
    def files(self) -> int:
        """Pictures in a request that there can ever be room for."""
        return min(self.max_files, self.queue)

    @property
    def bodies_at_once(self) -> int:
        """Bytes of all requests that are being read or answered."""
        return 4 * self.max_body

    @property
    def pixels_at_once(self) -> int:
        """Decoded pixels of all requests; pictures beyond them wait as the files they came in."""
        return 2 * self.max_pixels
