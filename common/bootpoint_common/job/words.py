"""A job's settings as sentences for people: when it runs, and what it does besides copying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bootpoint_common.job.schedule import DAY_MINUTES, LAST_DAY, Schedule, Window
from bootpoint_common.job.spec import Spec
from bootpoint_common.job.value import clock_text
from bootpoint_common.units import format_duration, format_size

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

#: The whole day.
_ALWAYS = Window()


def schedule_words(schedule: Schedule) -> str:
    """Say when a rule starts runs: ``Monday to Friday, every 30 min from 07:00 to 20:00``."""
    if schedule.once is not None:
        return f"once, at {schedule.once:%Y-%m-%d %H:%M}"
    days = _weekly(schedule.weekly) if schedule.weekly else _monthly(schedule.monthly)
    start, end = clock_text(schedule.window.start), clock_text(schedule.window.end)
    if schedule.every_seconds is None:
        times = f"at {start}"
    elif schedule.window == _ALWAYS:
        times = f"every {format_duration(schedule.every_seconds)}"
    else:
        over = " of the next day" if schedule.window.start + schedule.window.minutes > DAY_MINUTES else ""
        times = f"every {format_duration(schedule.every_seconds)} from {start} to {end}{over}"
    span = "" if schedule.effective is None else _effective(schedule)
    return f"{days}, {times}{span}"


def _weekly(days: Sequence[int]) -> str:
    if len(days) == len(_DAYS):
        return "every day"
    first, last = days[0], days[-1]
    if len(days) > 2 and last - first == len(days) - 1:
        return f"{_DAYS[first]} to {_DAYS[last]}"
    return _listed([_DAYS[day] for day in days])


def _monthly(days: Sequence[int]) -> str:
    dates = [str(day) for day in days if day != LAST_DAY]
    if not dates:
        return "on the last day of each month"
    last = ["the last"] if LAST_DAY in days else []
    return f"on {'days' if dates[1:] or last else 'day'} {_listed([*dates, *last])} of each month"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _effective(schedule: Schedule) -> str:
    begin, end = schedule.effective or (None, None)
    return f", from {begin:%Y-%m-%d %H:%M} up to {end:%Y-%m-%d %H:%M}"


def when(spec: Spec) -> list[str]:
    """Say when a job runs by itself, a sentence for each rule; ``by hand only`` where nothing starts it."""
    zone = f" ({spec.time_zone})" if spec.time_zone else ""
    found = [f"{schedule_words(schedule)}{zone}" for schedule in spec.schedules]
    rules = spec.run
    if rules.on_shutdown.enabled:
        found.append(f"when the machine shuts down, within {format_duration(rules.on_shutdown.deadline_seconds)}")
    if rules.on_restart:
        found.append("when the machine has started")
    return found or ["by hand only"]


def options(spec: Spec) -> list[tuple[str, str]]:
    """Return a job's options by name, without source, targets and schedule."""
    return [*_rules(spec), *_proofs(spec), *_limits(spec), *_told(spec)]


def _rules(spec: Spec) -> Iterator[tuple[str, str]]:
    retry = spec.run.retry
    again = f"{retry.times} times, {format_duration(retry.wait_seconds)} apart" if retry.times else "never"
    yield "objective", _objective(spec)
    yield "retry", f"{again}, after a failure that may pass by itself"
    yield "catch up", f"a missed run, up to {format_duration(spec.run.catch_up_seconds)} late"
    yield "level", f"at least {spec.source.consistency}"
    if spec.source.skip:
        yield "left out", ", ".join(str(skip) for skip in spec.source.skip)
    if spec.group is not None:
        yield "group", f"{spec.group.name}, place {spec.group.order}"
    for stage in ("before_snapshot", "after_snapshot", "after_point"):
        script = getattr(spec.scripts, stage)
        if script is not None:
            stops = ", its failure stops the run" if script.abort else ""
            yield f"script {stage}", f"{' '.join(script.run)} as {script.user}{stops}"


def _objective(spec: Spec) -> str:
    wanted = (("newest point", spec.objective.point_seconds), ("bootable point", spec.objective.bootable_seconds))
    named = [f"{name} at most {format_duration(seconds)} old" for name, seconds in wanted if seconds is not None]
    return "; ".join(named) or "none"


def _proofs(spec: Spec) -> Iterator[tuple[str, str]]:
    for name, seconds in (("verify", spec.check.verify_seconds), ("boot check", spec.check.boot_seconds)):
        yield name, "never" if seconds is None else f"every {format_duration(seconds)}"


def _limits(spec: Spec) -> Iterator[tuple[str, str]]:
    limits = spec.limits
    yield "priority", f"nice {limits.nice}"
    if limits.read_bytes_per_second:
        yield "reading", f"{format_size(limits.read_bytes_per_second)} a second"
    for rate in limits.network:
        value = f"{format_size(rate.kb_per_second * 1024)} a second" if rate.kb_per_second else "no limit"
        window = rate.window
        yield "network", value if window is None else (
            f"{value} from {clock_text(window.start)} to {clock_text(window.end)}"
        )


def _told(spec: Spec) -> Iterator[tuple[str, str]]:
    if spec.notify.mail is not None:
        yield "mail", f"to {', '.join(spec.notify.mail.to)} on {spec.notify.mail.on}"
    if spec.notify.webhook is not None:
        yield "webhook", f"{spec.notify.webhook.url} on {spec.notify.webhook.on}"
