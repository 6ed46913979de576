"""From what was rehearsed to a plan: phases, their peaks on every device, and what does not fit."""

from .plan import Advice, Phase, Plan, Shortage, plan_of
from .report import report, spoken_plan, verdict

__all__ = ["Advice", "Phase", "Plan", "Shortage", "plan_of", "report", "spoken_plan", "verdict"]
