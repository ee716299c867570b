"""A complete imitation of APIXO's service on this machine: no key, no cost, no network.

    >>> from apixo_nb.sandbox import Sandbox
    >>> with Sandbox() as sandbox:
    ...     print(sandbox.base_url)  # doctest: +SKIP
    http://127.0.0.1:43521/api/v1

or, in a terminal, ``python -m apixo_nb.sandbox``. Requests are checked, tasks take their time, a balance
runs down, and the pictures are drawn on the spot and marked SANDBOX. Every model in
`apixo_nb.core.models.MODELS` is on offer. Words in square brackets in the prompt bring trouble on demand
(`MARKERS`):

==================  ====================================================================================
``[fail:CODE]``     the task ends failed, with this failCode
``[http:STATUS]``   the submit is refused with this HTTP status; nothing is accepted or charged
``[busy:N]``        the first N submits of this very prompt are refused with 429 and Retry-After: 1
``[lost]``          the submit is accepted and charged, then the connection closes without an answer
``[lost:STATUS]``   the submit is accepted and charged, but answered with this 5xx status
``[seconds:N]``     the task takes N seconds
``[never]``         the task never ends
``[pictures:N]``    the task succeeds with N result URLs, whatever was asked for; 0 is allowed
``[gone]``          the result URLs answer 404
``[broken]``        the picture host closes the connection halfway through each picture
``[html]``          the result URLs answer an HTML page with 200
``[no-cost-time]``  the finished status lacks costTime
==================  ====================================================================================

Faults of the network, of proxies and of answers are rules in place of words (`Fault`, `Sandbox.faults`, and a
JSON file for ``apixo-nb sandbox --faults FILE``): the connection that breaks after the task was charged, a
status that is no JSON, a picture that is a bomb. ``apixo-nb sandbox --help`` has them all (`KINDS`).

A reference picture may be any http(s) URL, the sandbox's own results included; none is ever fetched.
"""

from __future__ import annotations

from apixo_nb.sandbox.account import Account, Delivery, SandboxOptions, Seen
from apixo_nb.sandbox.fault_kinds import KINDS
from apixo_nb.sandbox.faults import Fault, Faults
from apixo_nb.sandbox.markers import MARKERS
from apixo_nb.sandbox.server import Sandbox
from apixo_nb.sandbox.tasks import Task

__all__ = [
    "KINDS",
    "MARKERS",
    "Account",
    "Delivery",
    "Fault",
    "Faults",
    "Sandbox",
    "SandboxOptions",
    "Seen",
    "Task",
]
