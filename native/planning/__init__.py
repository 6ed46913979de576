"""Memory plans of workflows from dry runs: phases, their peaks on every device, and what does not fit."""

from .plan import Advice, Component, Machine, Part, Phase, Plan, Shortage, plan_of
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
