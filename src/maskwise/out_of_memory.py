"""Recognising out-of-memory errors."""


def is_out_of_memory(error: BaseException) -> bool:
    """As CUDA, Metal, the allocator of torch on the CPU and Python say it."""
    words = str(error).lower()
    said = any(saying in words for saying in ("out of memory", "can't allocate memory", "not enough memory"))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)
