"""Reads the options of a job file: ``[run]``, ``[scripts]``, ``[limits]``, ``[check]`` and ``[notify]``."""

from __future__ import annotations

from dataclasses import replace

from bootpoint_common.job import address, value
from bootpoint_common.job.calendar import between
from bootpoint_common.job.schedule import DAY_MINUTES
from bootpoint_common.job.spec import (
    Check,
    Limits,
    Mail,
    Notify,
    NotifyOn,
    OnShutdown,
    Rate,
    Retry,
    RunRules,
    Script,
    Scripts,
    Webhook,
)
from bootpoint_common.job.table import BadValue, Table

_USER = value.matching("[A-Za-z_][A-Za-z0-9_.-]{0,31}", "a user's name")


def read_run(table: Table) -> RunRules:
    """Read ``[run]``."""
    shutdown, retry = table.table("on_shutdown"), table.table("retry")
    rules = RunRules(
        on_shutdown=OnShutdown(
            enabled=shutdown.take("enabled", value.boolean, False),
            deadline_seconds=shutdown.take("deadline", value.duration(1.0, 86400.0), 60.0),
        ),
        on_restart=table.take("on_restart", value.boolean, False),
        retry=Retry(
            times=retry.take("times", value.integer(0, 100), 3),
            wait_seconds=retry.take("wait", value.duration(0.0), 300.0),
        ),
        catch_up_seconds=table.take("catch_up", value.duration(0.0), 86400.0),
    )
    for part in (shutdown, retry, table):
        part.end()
    return rules


def read_scripts(table: Table) -> Scripts:
    """Read ``[scripts]``."""
    scripts = Scripts(
        before_snapshot=_script(table, "before_snapshot", abort=True),
        after_snapshot=_script(table, "after_snapshot", abort=False),
        after_point=_script(table, "after_point", abort=False),
    )
    table.end()
    return scripts


def _script(parent: Table, stage: str, *, abort: bool) -> Script | None:
    if not parent.has(stage):
        return None
    table = parent.table(stage)
    if not table.has("run"):
        table.problem("run", "is missing", hint='write run = ["/path/of/program", "argument"]')
    script = Script(
        run=table.items("run", value.argument, unique=False),
        user=table.take("user", _USER, "root"),
        timeout_seconds=table.take("timeout", value.duration(1.0, 86400.0), 60.0),
        abort=table.take("abort", value.boolean, abort),
    )
    if script.run and not script.run[0].startswith("/"):
        text = f"{script.run[0]!r} is no absolute path"
        table.problem("run[0]", text, hint="write the program's full path", value=script.run[0])
    table.end()
    return script


def read_limits(table: Table) -> Limits:
    """Read ``[limits]``."""
    limits = Limits(
        nice=table.take("nice", value.integer(0, 19), 10),
        read_bytes_per_second=table.take("read_bytes_per_second", value.integer(0, 2**50), 0),
        network=tuple(_rate(entry) for entry in table.tables("network_kb_per_second")),
    )
    covered: set[int] = set()
    for number, rate in enumerate(limits.network):
        minutes = {DAY_MINUTES} if rate.window is None else set(filter(rate.window.contains, range(DAY_MINUTES)))
        if covered & minutes:
            table.problem(
                f"network_kb_per_second[{number}]",
                "meets another entry of the list",
                hint="let each time of day stand in one entry, and the rest of the day in one without from and to",
            )
        covered |= minutes
    table.end()
    return limits


def _rate(table: Table) -> Rate:
    rate = Rate(kb_per_second=table.require("value", value.integer(0, 2**40), 0))
    start, end = table.take("from", value.clock, None), table.take("to", value.clock, None)
    if table.has("from") != table.has("to"):
        table.problem("to" if table.has("from") else "from", "is missing", hint="write both from and to, or neither")
    elif start is not None and end is not None:
        try:
            rate = replace(rate, window=between(start, end))
        except BadValue as problem:
            table.problem("to", str(problem), hint=problem.hint)
    table.end()
    return rate


def read_check(table: Table) -> Check:
    """Read ``[check]``."""
    default = Check()
    check = Check(
        verify_seconds=table.take("verify", value.interval, default.verify_seconds),
        boot_seconds=table.take("boot", value.interval, default.boot_seconds),
    )
    table.end()
    return check


def read_notify(table: Table) -> Notify:
    """Read ``[notify]``."""
    when = value.member(NotifyOn)
    mail: Mail | None = None
    webhook: Webhook | None = None
    if table.has("mail"):
        part = table.table("mail")
        if not part.has("to"):
            part.problem("to", "is missing", hint='write to = ["ops@example.org"]')
        mail = Mail(to=part.items("to", address.mail_address), on=part.take("on", when, NotifyOn.FAILURE))
        part.end()
    if table.has("webhook"):
        part = table.table("webhook")
        webhook = Webhook(
            url=part.require("url", address.web_url, ""),
            secret_file=part.take("secret_file", value.secret_path, None),
            on=part.take("on", when, NotifyOn.FAILURE),
        )
        part.end()
    table.end()
    return Notify(mail=mail, webhook=webhook)
