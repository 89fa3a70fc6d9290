"""Transfers that have several connections however fast the first one is."""

from agent.transfer.http.ramp import Ramp, Sample
from agent.transfer.http.slices import SLICE


class Eager(Ramp):
    """Wants as many as may be from the first look on, until one is refused."""

    worth = SLICE
    refused = False

    def observe(self, sample: Sample) -> None:
        if not self.refused:
            self.count = self.most

    def refuse(self, now: float, standing: int) -> None:
        self.refused = True
        super().refuse(now, standing)
