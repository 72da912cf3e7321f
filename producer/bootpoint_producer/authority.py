"""Whom an agent believes to be its broker: a folder of the machine's owner, or the authority that its token names.

With a folder (`tls` in agent.toml) the agent shows a certificate, too. Without one it takes the authority, once, from
the broker itself, and believes it because its fingerprint stands in the token: whoever is in between can't forge that.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from bootpoint_common.config import AgentConfig
from bootpoint_common.enrolment import Token
from bootpoint_common.errors import Code, error
from bootpoint_common.tls import CA_FILE, NOTHING_OF_OURS, Trust, fingerprint, read_certificates, refused
from bootpoint_common.tls_probe import Peer, authority_of

from .state import AgentState, replace_file

#: AMQPS' port, where a URL names none.
_PORT = 5671


def known_trust(config: AgentConfig, state: AgentState) -> Trust:
    """Return whom an agent that has joined believes, and what it shows."""
    if config.tls is not None:
        return Trust(folder=config.tls)
    kept = _kept(state)
    return Trust(authority=kept) if kept.exists() else NOTHING_OF_OURS


def first_trust(config: AgentConfig, state: AgentState, token: Token) -> Trust:
    """Return whom a machine that is about to join believes; `keep` makes it last once it has joined.

    Raises:
        FatalError: ``tls_refused``: the folder is of another authority than the token says, the token's URL is plain,
            or the broker doesn't show the authority.
        RetryableError: ``no_worker``: nobody answers at the broker's address.
    """
    if not token.fingerprint:
        return Trust(folder=config.tls)
    if config.tls is not None:
        file = config.tls / CA_FILE
        found = [fingerprint(each) for each in read_certificates(file)]
        if token.fingerprint not in found:
            text = f"{file} is of another authority ({', '.join(found)}) than the token says: {token.fingerprint}"
            hint = "copy the folder that was made for this agent, or get a new token"
            raise refused(text, file=file, key="tls", hint=hint)
        return Trust(folder=config.tls)
    parts = urlsplit(token.broker_url)
    if parts.scheme != "amqps":
        raise refused("the token names an authority, and its broker URL is plain", key="token", hint="get a new token")
    peer = Peer("the broker", parts.hostname or "", parts.port or _PORT)
    try:
        found_authority = authority_of(peer, token.fingerprint)
    except OSError as away:
        hint = "check the network to the broker, and try again with the same token"
        raise error(Code.NO_WORKER, f"{peer} can't be reached: {away}", key="token", hint=hint) from away
    replace_file(_taken(state), found_authority)
    return Trust(authority=_taken(state))


def keep(state: AgentState, trust: Trust) -> None:
    """Make the authority that the machine joined by the one of all later connections."""
    if trust.authority is not None:
        trust.authority.replace(_kept(state))
    else:
        _kept(state).unlink(missing_ok=True)


def _kept(state: AgentState) -> Path:
    return state.directory / "authority.pem"


def _taken(state: AgentState) -> Path:
    return state.directory / "authority.joining.pem"
