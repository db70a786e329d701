"""The vocabulary of the made-up consultancy: companies, projects, people, places."""

from json.encoder import encode_basestring as q

COMPANY_FIRST = (
    "Northwind", "Meridian", "Halcyon", "Kestrel", "Bluewater", "Summit", "Orchid", "Lantern",
    "Redwood", "Pacifica", "Aurora", "Banyan", "Crescent", "Delta", "Ember", "Falcon",
    "Granite", "Harbour", "Indigo", "Juniper", "Keystone", "Lotus", "Monsoon", "Nimbus",
    "Opal", "Pinnacle", "Quartz", "Raffles", "Sapphire", "Tamarind", "Umbra", "Vertex",
    "Willow", "Xenia", "Yarra", "Zephyr", "Alder", "Birch", "Copper", "Dune",
    "Everest", "Fjord", "Garnet", "Hazel", "Ivory", "Jade", "Koru", "Lagoon", "Mistral",
    "Neptune", "Onyx", "Prairie", "Quill", "Rivers", "Sierra", "Tundra", "Ursa", "Viola",
    "Wattle", "Zenith", "Cobalt",
)  # fmt: skip
COMPANY_LAST = (
    "Logistics", "Bank", "Retail", "Health", "Energy", "Media", "Foods", "Motors", "Insurance",
    "Airlines", "Telecom", "Pharma", "Textiles", "Robotics", "Capital", "Hospitals", "Education",
    "Properties", "Shipping", "Games", "Steel", "Chemicals", "Hotels", "Payments", "Agritech",
    "Semiconductors", "Mining", "Aerospace", "Water", "Studios",
)  # fmt: skip
PROJECTS = {
    "MSP Services": (
        "Managed AWS operations", "24x7 managed cloud", "FinOps retainer",
        "Cloud operations handover", "Managed Kubernetes on AWS", "Backup and recovery service",
    ),
    "Gen AI": (
        "Support assistant on Amazon Bedrock", "Document intelligence pilot",
        "Gen AI contact centre", "Knowledge search with RAG", "Data lake on AWS",
        "Claims summarisation",
    ),
    "Cloud Migration": (
        "Data centre exit to AWS", "SAP on AWS", "VMware migration", "Oracle to Aurora",
        "Windows modernisation", "Mainframe offload", "Landing zone and migration wave 1",
    ),
    "Security": (
        "Security baseline review", "SOC on AWS", "Zero trust access", "PCI DSS readiness",
        "Identity centre rollout", "Threat detection with GuardDuty",
    ),
}  # fmt: skip
FIRST_NAMES = (
    "Arjun", "Bea", "Chen", "Divya", "Elena", "Farid", "Gita", "Hana", "Ivan", "Jun", "Kavya",
    "Leo", "Mina", "Noor", "Oscar", "Pia", "Quinn", "Ravi", "Sara", "Theo", "Uma", "Viktor",
    "Wen", "Xin", "Yara", "Zoe", "Amara", "Bruno", "Chloé", "Dmitri", "Eun-ji", "Søren",
)  # fmt: skip
LAST_NAMES = (
    "Abdullah", "Bose", "Chua", "Das", "Evans", "Fernandez", "Gupta", "Ho", "Ito", "Jansen",
    "Kaur", "Lee", "Müller", "Nguyen", "O'Brien", "Park", "Qureshi", "Rao", "Singh", "Teo",
    "Ueda", "Vargas", "Wong", "Xu", "Yeo", "Zhao", "Costa", "Dubois", "Eriksen", "García",
)  # fmt: skip
TITLES = (
    "CIO", "CTO", "Head of Infrastructure", "Head of Data", "CISO", "IT Manager",
    "VP Engineering", "Procurement Lead", "Cloud Architect", "Director of Operations",
)  # fmt: skip
CITIES = {
    "APAC": (("Singapore", "Singapore"), ("Sydney", "Australia"), ("Tokyo", "Japan"),
             ("Jakarta", "Indonesia"), ("Bangkok", "Thailand")),
    "Americas": (("Austin", "United States"), ("Toronto", "Canada"), ("São Paulo", "Brazil")),
    "EMEA": (("Berlin", "Germany"), ("London", "United Kingdom"), ("Kuwait City", "Kuwait"),
             ("Paris", "France")),
    "India": (("Bengaluru", "India"), ("Mumbai", "India"), ("Pune", "India")),
}  # fmt: skip
NEXT_STEPS = tuple(
    q(text)
    for text in (
        "Send revised proposal", "Book architecture workshop", "Confirm AWS funding request",
        "Meet procurement", "Collect sizing data", "Await legal review of the SOW",
        "Demo with the business owner", "Agree kickoff date", "Follow up on budget approval",
    )
)  # fmt: skip
DESCRIPTIONS = (
    None,
    None,
    None,
    *(q(text)
    for text in (
        "Came in through the AWS account team. Sponsor is the CIO.\nBudget is set for this year.",
        "Three workloads in scope; the customer wants a fixed price.",
        "Competing with the incumbent. Security review asked for before signature.",
        "Renewal with a larger scope, \"same team\" requested.",
        "Funded proof of concept first, then the migration itself.",
    )),
)  # fmt: skip
ODD_NAMES = tuple(
    q(text)
    for text in (
        "🚀 Cloud move – phase 2", "مشروع الترحيل إلى السحابة", "פרויקט אבטחה בענן",
        "Zürich – Re\u0301seau refresh", "データレイク構築 – AWS", "O\u200bpen\u200bScope – review",
        "<b>Bold</b> & \"quoted\" – pilot", "=SUM(A1:A9) – estimate",
    )
)  # fmt: skip
