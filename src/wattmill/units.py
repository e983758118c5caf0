"""Units and the only conversions between them: the one file that may hold 3.6e6, 1e6 and 1000.

Inside wattmill: joules, watts, seconds, tokens. In the books: whole nano-dollars (`_nusd`), whole
microjoules (`_uj`), whole tokens (`_tok`); instants on the wall are whole microseconds UTC (`_us`).
"""

import re
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

NUSD_PER_USD = 1_000_000_000
TOK_PER_MTOK = 1_000_000
UJ_PER_J = 1_000_000
US_PER_S = 1_000_000
PS_PER_NS = 1_000
PS_PER_US = 1_000_000
PS_PER_MS = 1_000_000_000
NS_PER_MS = 1_000_000
PS_PER_S = 1_000_000_000_000
MS_PER_S = 1_000
MW_PER_W = 1_000  # milliwatts
S_PER_H = 3_600
J_PER_KWH = 3_600_000
G_PER_KG = 1_000
UG_PER_G = 1_000_000
BYTES_PER_MB = 1_000_000
G_PER_T = 1_000_000
USD_PER_MUSD = 1_000_000
B_PER_GB = 1_000_000_000
W_PER_KW = 1_000
W_PER_MW = 1_000_000
W_PER_GW = 1_000_000_000
J_PER_KJ = 1_000
J_PER_GJ = 1_000_000_000
J_PER_MWH = 3_600_000_000
S_PER_DAY = 86_400
H_PER_YEAR = 8_760
S_PER_YEAR = 31_536_000  # 365 days: the year of rates and plans

SI_PREFIX = {
    "n": Fraction(1, 1_000_000_000),
    "µ": Fraction(1, 1_000_000),
    "u": Fraction(1, 1_000_000),
    "m": Fraction(1, 1_000),
    "k": Fraction(1_000),
    "M": Fraction(1_000_000),
    "G": Fraction(1_000_000_000),
    "T": Fraction(1_000_000_000_000),
    "P": Fraction(1_000_000_000_000_000),
    "E": Fraction(1_000_000_000_000_000_000),
}
"""Exact, so that arithmetic that was published can be checked to its last digit."""


def nusd_from_usd(usd: Decimal | int | str) -> int:
    """Return whole nano-dollars; a finer fraction rounds half to even.

    Takes text, integers or `Decimal`, never a float: 0.1 is not a number of dollars in binary.
    """
    return int((Decimal(usd) * NUSD_PER_USD).to_integral_value(ROUND_HALF_EVEN))


def usd_from_nusd(nusd: int) -> Decimal:
    """Return exact dollars of an integer number of nano-dollars."""
    return Decimal(nusd).scaleb(-9)


def usd_text(nusd: int, digits: int | None = None) -> str:
    """Return dollars for people, e.g. `0.000031`; `digits` after the point, half to even.

    Without `digits`: six, and all nine of an amount below a tenth of a cent that six would round. What was
    spent never reads 0.
    """
    if digits is None:
        digits = 6 if abs(nusd) >= NUSD_PER_USD // 1_000 or nusd % 1_000 == 0 else 9
    return f"{usd_from_nusd(nusd):.{digits}f}"


_WHOLE = re.compile("[0-9]{1,18}")


def whole_from(text: str) -> int | None:
    """Return a number as people and clients write it, in ASCII digits alone; None: it is none, or larger than
    any count here (18 digits fit a database's integers). `str.isdigit` knows digits that `int` does not."""
    return int(text) if _WHOLE.fullmatch(text) else None


_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?")
_SPAN_S = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": float(S_PER_H), "d": float(S_PER_DAY)}


def seconds_from(text: str) -> float | None:
    """Return the seconds of a time as people write it: 90s, 15m, 1.5h, 2d, or a bare number of seconds."""
    found = _SPAN.fullmatch(text.strip())
    return None if found is None else float(found[1]) * _SPAN_S[found[2]]
