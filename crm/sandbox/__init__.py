"""A stand-in for Zoho CRM, spoken to over real HTTP: its own process, its own SQLite file.

It follows what Zoho documents, not what our client finds handy, and imports nothing of ours, so
that the two cannot share a mistake. `python -m crm.sandbox --help` starts one; `control.py` says
how tests move its hidden hand. Where Zoho's documents are silent it takes the harder reading
(page tokens are offsets, If-Modified-Since is strictly after, notices may repeat). One known
deviation: notice and callback addresses may be plain http on this machine.
"""
