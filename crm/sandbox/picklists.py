"""The values of the CRM's picklists, its stages and its pipelines: plain tables."""

STAGES: tuple[tuple[str, str, int, str, str], ...] = (
    ("Qualification", "Qualification", 10, "Open", "Pipeline"),
    ("Needs Analysis", "Needs Analysis", 20, "Open", "Pipeline"),
    ("Value Proposition", "Value Proposition", 40, "Open", "Pipeline"),
    ("Identify Decision Makers", "Id. Decision Makers", 60, "Open", "Pipeline"),
    ("Proposal/Price Quote", "Proposal/Price Quote", 75, "Open", "Pipeline"),
    ("Negotiation/Review", "Negotiation/Review", 90, "Open", "Pipeline"),
    ("Closed Won", "Closed Won", 100, "Closed Won", "Closed"),
    ("Closed Lost", "Closed Lost", 0, "Closed Lost", "Omitted"),
    ("Closed-Lost to Competition", "Closed Lost to Competition", 0, "Closed Lost", "Omitted"),
)
"""Display value, actual value, probability, forecast type, forecast category."""

PIPELINES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Standard (Standard)", "Standard", tuple(stage[0] for stage in STAGES)),
    (
        "Renewals",
        "Renewals",
        (
            "Qualification",
            "Proposal/Price Quote",
            "Negotiation/Review",
            "Closed Won",
            "Closed Lost",
        ),
    ),
)
"""Display value, actual value, stages by display value. The first is the default."""

LEAD_SOURCES = (
    "Advertisement",
    "Cold Call",
    "Employee Referral",
    "External Referral",
    "Online Store",
    "Partner",
    "Public Relations",
    "Sales Email Alias",
    "Seminar Partner",
    "Internal Seminar",
    "Trade Show",
    "Web Download",
    "Web Research",
    "Chat",
)
LEAD_STATUSES = (
    "Attempted to Contact",
    "Contact in Future",
    "Contacted",
    "Junk Lead",
    "Lost Lead",
    "Not Contacted",
    "Pre-Qualified",
    "Not Qualified",
)
LOSS_REASONS = (
    "Expectation Mismatch",
    "Price",
    "Unqualified Customer",
    "Lack of response",
    "Missed Follow Ups",
    "Wrong Target",
    "Competition",
    "Future Interest",
    "Other",
)
INDUSTRIES = (
    "Financial Services",
    "Retail",
    "Manufacturing",
    "Healthcare",
    "Logistics",
    "Media",
    "Education",
    "Energy",
    "Government",
    "Telecom",
    "Gaming",
    "Travel",
)
TERRITORIES = ("APAC", "Americas", "EMEA", "India")
SERVICE_LINES = ("MSP Services", "Gen AI", "Cloud Migration", "Security")
FUNDING_TAGS = ("None", "MAP", "POC Credits", "MDF", "Partner Funding")
MARKET_SEGMENTS = ("AWS Originated", "Partner Originated", "Co-sell", "Self Sourced")
DEAL_TYPES = ("Existing Business", "New Business")
ACCOUNT_TYPES = ("Customer", "Prospect", "Partner", "Reseller")
RATINGS = ("Active", "Project Cancelled", "Market Failed", "Shut Down")
