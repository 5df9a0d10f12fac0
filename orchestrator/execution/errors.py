"""Ends of a run that are neither the user's to mend nor an error in the work."""


class OwnMachineLostError(Exception):
    """Ray has ended on the machine that drives the run: nothing can be handed out any more."""


class HeadLostError(Exception):
    """The head of the Ray cluster has gone: nothing that is asked of Ray comes back."""
