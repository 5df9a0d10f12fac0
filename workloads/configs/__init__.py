"""What decides a result: the options of every part, with their defaults and checks.

An option that changes a number is a field here; all of them go into the keys of steps. Nothing here imports torch or
the code that computes, so that `plan` and a run that is all cached answer at once.
"""
