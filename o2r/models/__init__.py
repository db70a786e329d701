"""Tables of opportunity to revenue. Import from here."""

from o2r.models.config import SignalRule, StagePhase, TrackerSettings
from o2r.models.history import PhaseChange, SignalChange
from o2r.models.milestones import Milestone, MilestoneChange
from o2r.models.opportunity import Opportunity
from o2r.models.preference import Preference
from o2r.models.rollups import (
    ClosedDay,
    DayCount,
    PipelineCell,
    PipelineMove,
    RecomputeState,
    TrackerCell,
    TrackerMargin,
)
from o2r.models.work import ActionItem, Activity, Review, Snooze

__all__ = [
    "ActionItem",
    "Activity",
    "ClosedDay",
    "DayCount",
    "Milestone",
    "MilestoneChange",
    "Opportunity",
    "PhaseChange",
    "PipelineCell",
    "PipelineMove",
    "Preference",
    "RecomputeState",
    "Review",
    "SignalChange",
    "SignalRule",
    "Snooze",
    "StagePhase",
    "TrackerCell",
    "TrackerMargin",
    "TrackerSettings",
]
