"""Plans: prompts x seeds x settings, generated into a folder. A run can be interrupted, resumed and extended."""

from .arms import Arm, Cell
from .on_ray import OnRay
from .page import PAGE, PAPER, experiment, write_page
from .plan import Plan, read
from .record import Folder, Keys
from .run import Progress, run
from .scored import videos
from .scoring import score
from .status import status
from .stored import read_run
from .tuning import check_tuning

__all__ = [
    "PAGE",
    "PAPER",
    "Arm",
    "Cell",
    "Folder",
    "Keys",
    "OnRay",
    "Plan",
    "Progress",
    "check_tuning",
    "experiment",
    "read",
    "read_run",
    "run",
    "score",
    "status",
    "videos",
    "write_page",
]
