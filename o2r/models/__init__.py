"""Tables of opportunity to revenue. Import from here."""

from o2r.models.opportunity import Opportunity
from o2r.models.preference import Preference
from o2r.models.rollups import ClosedDay, PipelineCell, PipelineMove, RecomputeState

__all__ = [
    "ClosedDay",
    "Opportunity",
    "PipelineCell",
    "PipelineMove",
    "Preference",
    "RecomputeState",
]
