"""Pictures of runs and comparisons."""

from .comparison import draw_comparison
from .curves import draw_run
from .style import COLOURS, INK, beside, cut, figure, save, spread, title

__all__ = ["COLOURS", "INK", "beside", "cut", "draw_comparison", "draw_run", "figure", "save", "spread", "title"]
