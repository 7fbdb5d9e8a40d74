"""How many series, and bytes, go together."""

WIDTH = 16  # lanes in a vector: a cache line of float32, and four registers of float64 on AVX2
OCTET = 8  # lanes and steps of a block that is transposed in registers
LINE = 64  # bytes of a cache line
