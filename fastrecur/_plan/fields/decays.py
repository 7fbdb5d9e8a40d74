"""What the kernel of decays from times is told, and writes."""

from ..widths import WIDTH

# Fields of ``carry``: the time of a half-life, the power to which a half-life's decay is 2; behind them a vector, which
# is written: numbers that are not negative if no time is before the one before it, and all are finite.
HALFLIFE, POWER, SOUND = 0, 1, WIDTH
