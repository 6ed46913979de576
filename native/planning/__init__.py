"""From what was dry-run to a plan: phases, their peaks on every device, and what does not fit."""

from .machine import Machine
from .plan import Advice, Component, Part, Phase, Plan, Shortage, plan_of
from .profiles import Profile, ProfileError, described_machine, known_profiles, profile_of, read_profiles
from .report import Peaks, plan_json, report, verdict

__all__ = [
    "Advice",
    "Component",
    "Machine",
    "Part",
    "Peaks",
    "Phase",
    "Plan",
    "Profile",
    "ProfileError",
    "Shortage",
    "described_machine",
    "known_profiles",
    "plan_json",
    "plan_of",
    "profile_of",
    "read_profiles",
    "report",
    "verdict",
]
