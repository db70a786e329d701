"""A deterministic simulator: one seed → one schedule of what a CRM, its people, its bad days and
our own machine do to a mirror; then a judge who asks whether the mirror is the CRM.

`people` work in the CRM, `weather` spoils answers, `machine` is our side (order of reads, deaths,
clocks), `schedule` puts them in an order, `judge` says what must hold. Nothing here is drawn but
from the seed, and both clocks are held, so a seed that fails fails again.

`both_sides` lets people here change the same records (`users` here, `colleagues` there), and
`killed` does it in processes that SIGKILL ends. A `book` keeps what they wished and what was sent
(`watched`); with the CRM's own history (`trail`) it tells what became of each wish (`fates`,
`sendings`, `both_at_rest`).
"""
