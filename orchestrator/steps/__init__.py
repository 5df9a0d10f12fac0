"""Jobs: what travels to a worker, and what it does there.

The model: a job is small and picklable, reads what it needs through the ledger, computes, and commits its shard itself;
only records and a few numbers go back. A job that is done twice (its worker died after the commit) finds the record and
returns it. Jobs that need no network are in modules that do not import torch, so their workers start in half a second.
The failures this guards against: features or maps passing through the driver, and work that is lost with the driver.
"""
