"""Plans: whole tables of prompts, seeds and settings, made in a folder that can be interrupted and extended."""

from .plan import Arm, Cell, Plan, read
from .record import Folder, Keys
from .run import Progress, run
from .scored import videos
from .scoring import scorer
from .status import status

__all__ = ["Arm", "Cell", "Folder", "Keys", "Plan", "Progress", "read", "run", "scorer", "status", "videos"]
