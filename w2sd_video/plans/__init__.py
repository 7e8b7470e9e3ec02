"""Plans: whole tables of prompts, seeds and settings, made in a folder that can be interrupted and extended."""

from .page import PAGE, experiment, write_page
from .plan import Arm, Cell, Plan, read
from .record import Folder, Keys
from .run import Progress, run
from .scored import videos
from .status import status

__all__ = [
    "PAGE",
    "Arm",
    "Cell",
    "Folder",
    "Keys",
    "Plan",
    "Progress",
    "experiment",
    "read",
    "run",
    "status",
    "videos",
    "write_page",
]
