"""Requests for deletion: ids in; the unlearned network, its evidence and a record of it out."""

from jaxmul.deletion.evidence import cost
from jaxmul.deletion.forgetting import Forgotten, Refused, forget
from jaxmul.deletion.record import verify
from jaxmul.deletion.rehearsal import Rehearsal, rehearse, serve

__all__ = ["Forgotten", "Refused", "Rehearsal", "cost", "forget", "rehearse", "serve", "verify"]
