"""Requests for deletion: ids in; the unlearned network, its evidence and a record of it out."""

from jaxmul.deletion.evidence_and_cost import cost
from jaxmul.deletion.forgetting import Forgotten, forget
from jaxmul.deletion.refusal import Refused
from jaxmul.deletion.rehearsal import Rehearsal, rehearse
from jaxmul.deletion.sealed_record import verify
from jaxmul.deletion.serving import serve

__all__ = ["Forgotten", "Refused", "Rehearsal", "cost", "forget", "rehearse", "serve", "verify"]
