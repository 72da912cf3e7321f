"""The root of the command line: the nouns, and where every error becomes a message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click
import psycopg
from psycopg_pool import PoolTimeout

from bootpoint_common import log
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_ops.cli import (
    agent,
    check,
    deletion,
    disk,
    event,
    export,
    history,
    job,
    jobfile,
    jobview,
    mount,
    notify,
    pin,
    plan,
    point,
    process,
    refusal,
    report,
    rescan,
    run,
    selftest,
    status,
    switch,
    tls,
    vm,
)
from bootpoint_ops.cli.output import CANCELLED, Session, complain, usage


class Root(click.Group):
    """Turns errors into messages on stderr and exit codes: 1 failed, 2 usage, 3 not found, 4 refused, 130 cancelled."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **extra: Any) -> Any:
        """Run a call and end the process, or raise `SystemExit`."""
        words = list(sys.argv[1:] if args is None else args)
        log.silence()
        session = Session()
        extra.update(standalone_mode=False, obj=session)
        try:
            code = super().main(words, *positional, **extra)
        except BootpointError as problem:
            refusal.record(session, problem, words)
            complain(problem, as_json=_wants_json(session, words))
            code = problem.exit_code
        except click.exceptions.Exit as done:
            code = done.exit_code
        except (click.Abort, KeyboardInterrupt):
            complain(_interrupted(), as_json=_wants_json(session, words))
            code = CANCELLED
        except click.ClickException as wrong:
            complain(usage(wrong), as_json=_wants_json(session, words))
            code = 2
        except (UnicodeEncodeError, psycopg.DataError) as refused:  # as text, or within JSON
            odd = [word for word in words if not _is_text(word)]
            if not odd and isinstance(refused, UnicodeEncodeError):
                raise
            named = _not_text(odd[0]) if odd else _database_problem(refused)
            complain(named, as_json=_wants_json(session, words))
            code = named.exit_code
        except CarrierLost as away:
            complain(_broker_problem(away), as_json=_wants_json(session, words))
            code = 1
        except (psycopg.Error, PoolTimeout) as away:
            complain(_database_problem(away), as_json=_wants_json(session, words))
            code = 1
        finally:
            session.close()
        sys.exit(code if isinstance(code, int) else 0)


def _interrupted() -> BootpointError:
    """Say that somebody ended a command before it was through."""
    hint = "what it had asked for may go on: `bootpoint run list` and `bootpoint history` show it"
    return error(Code.CANCELLED, "interrupted", hint=hint)


def _wants_json(session: Session, words: Sequence[str]) -> bool:
    """Say whether JSON was asked for, also in a call that is too wrong to be read."""
    if session.json:
        return True
    pairs = zip(words, [*words[1:], ""], strict=True)
    return any(
        (one in ("-o", "--output") and two == "json") or one in ("-ojson", "--output=json") for one, two in pairs
    )


def _is_text(word: str) -> bool:
    """Say whether an argument is UTF-8: bytes that aren't come as surrogates (PEP 383), which the database refuses."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_text(word: str) -> BootpointError:
    shown = word.encode("utf-8", "backslashreplace").decode()
    return error(Code.SPEC_INVALID, f"{shown} is not UTF-8", value=shown, hint="type it again, in a UTF-8 terminal")


def _broker_problem(away: CarrierLost) -> BootpointError:
    hint = "check that it runs, and BOOTPOINT_BROKER_URL, BOOTPOINT_BROKER_TLS"
    return error(Code.NO_WORKER, f"the broker can't be used: {away}", key="BOOTPOINT_BROKER_URL", hint=hint)


def _database_problem(away: Exception) -> BootpointError:
    if isinstance(away, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        hint = "bring it up to date with `bootpoint db migrate`"
        return error(Code.NO_SCHEDULER, f"the database is of another version: {away}", hint=hint)
    if isinstance(away, psycopg.errors.InsufficientPrivilege):
        hint = "use a login of the right role (docs/security.md); after an update: `bootpoint db migrate` as the owner"
        return error(Code.NO_SCHEDULER, f"the database's login may not do that: {away}", hint=hint)
    return error(
        Code.NO_SCHEDULER,
        f"the database does not answer: {str(away).strip()}",
        hint="check that it runs, and BOOTPOINT_DATABASE_URL (without it: that `bootpoint up` runs)",
    )


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="bootpoint", prog_name="bootpoint")
def main() -> None:
    """Keep inactive, bootable copies of machines on hypervisor hosts, and prove them."""


for _verb in (jobfile.init, jobfile.apply, jobview.list_, jobview.show, plan.plan, notify.notify, deletion.delete):
    job.job.add_command(_verb)
point.point.add_command(pin.pin)
point.point.add_command(pin.unpin)

for _command in (
    *(process.up, process.demo, process.db, process.worker, process.scheduler, process.exporter, process.code),
    *(status.status, report.report, history.history),
    *(rescan.host, agent.agent, disk.disk, event.event, job.job, run.run, check.point, vm.vm),
    *(switch.switch, deletion.replica, tls.tls, selftest.selftest),
):
    main.add_command(_command)

# Commands of other modules, which add themselves to their nouns.
_ = (export, mount)
