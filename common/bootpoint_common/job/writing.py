"""From a `Spec` to the JSON object of ``job show``: the keys of the job file, with every default filled in."""

from __future__ import annotations

from typing import Any

from bootpoint_common.job.schedule import LAST_DAY, Schedule
from bootpoint_common.job.spec import Limits, Notify, RunRules, Script, Source, Spec
from bootpoint_common.job.target import Nic, Target
from bootpoint_common.job.value import WEEKDAYS, clock_text, duration_text, size_text


def as_json(spec: Spec) -> dict[str, Any]:
    """Return the job as JSON, sizes and durations as text again; `read_json` gives the same job back."""
    return {
        "name": spec.name,
        "enabled": spec.enabled,
        "time_zone": spec.time_zone,
        "objective": {
            "point": _duration(spec.objective.point_seconds),
            "bootable": _duration(spec.objective.bootable_seconds),
        },
        "group": None
        if spec.group is None
        else {
            "name": spec.group.name,
            "order": spec.group.order,
            "wait": spec.group.wait,
            "timeout": duration_text(spec.group.timeout_seconds),
        },
        "source": _source(spec.source),
        "target": [_target(target) for target in spec.targets],
        "schedule": [_schedule(schedule) for schedule in spec.schedules],
        "run": _run(spec.run),
        "scripts": {
            "before_snapshot": _script(spec.scripts.before_snapshot),
            "after_snapshot": _script(spec.scripts.after_snapshot),
            "after_point": _script(spec.scripts.after_point),
        },
        "limits": _limits(spec.limits),
        "check": {
            "verify": _duration(spec.check.verify_seconds) or "never",
            "boot": _duration(spec.check.boot_seconds) or "never",
        },
        "notify": _notify(spec.notify),
    }


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else duration_text(seconds)


def _source(source: Source) -> dict[str, Any]:
    disks = source.disks
    return {
        "agent": source.agent,
        "vm": None if source.vm is None else {"host": source.vm.host, "name": source.vm.name},
        "image": source.image,
        "consistency": source.consistency.value,
        "disks": "all" if disks is None else [{"slot": disk.slot, "id": disk.id} for disk in disks],
        "skip": [skip.value for skip in source.skip],
    }


def _target(target: Target) -> dict[str, Any]:
    vm, storage = target.vm, target.storage
    return {
        "host": target.host,
        "pool": target.pool,
        "points": target.points,
        "lag_limit": duration_text(target.lag_limit_seconds),
        "vm": {
            "name": vm.name,
            "cpus": vm.cpus,
            "memory": None if vm.memory_bytes is None else size_text(vm.memory_bytes),
            "firmware": None if vm.firmware is None else vm.firmware.value,
        },
        "storage": {
            "name": storage.name,
            "folder": storage.folder,
            "disk_name": storage.disk_name,
            "provisioning": storage.provisioning.value,
            "bus": storage.bus,
            "resource_pool": storage.resource_pool,
        },
        "nic": [_nic(nic) for nic in target.nics],
    }


def _nic(nic: Nic) -> dict[str, Any]:
    return {
        "network": nic.network,
        "model": nic.model,
        "mac": nic.mac,
        "ip": {
            "mode": nic.ip.mode.value,
            "address": nic.ip.address,
            "gateway": nic.ip.gateway,
            "dns": list(nic.ip.dns),
        },
        "connect": nic.connect,
    }


def _schedule(schedule: Schedule) -> dict[str, Any]:
    once = schedule.once
    return {
        "weekly": [WEEKDAYS[day] for day in schedule.weekly] or None,
        "monthly": ["last" if day == LAST_DAY else day for day in schedule.monthly] or None,
        "once": None if once is None else once.isoformat(),
        "window": None if once else [clock_text(schedule.window.start), clock_text(schedule.window.end)],
        "every": _duration(schedule.every_seconds),
        "effective": None if schedule.effective is None else [moment.isoformat() for moment in schedule.effective],
    }


def _run(rules: RunRules) -> dict[str, Any]:
    return {
        "on_shutdown": {
            "enabled": rules.on_shutdown.enabled,
            "deadline": duration_text(rules.on_shutdown.deadline_seconds),
        },
        "on_restart": rules.on_restart,
        "retry": {"times": rules.retry.times, "wait": duration_text(rules.retry.wait_seconds)},
        "catch_up": duration_text(rules.catch_up_seconds),
    }


def _script(script: Script | None) -> dict[str, Any] | None:
    if script is None:
        return None
    return {
        "run": list(script.run),
        "user": script.user,
        "timeout": duration_text(script.timeout_seconds),
        "abort": script.abort,
    }


def _limits(limits: Limits) -> dict[str, Any]:
    network = [
        {
            "from": None if rate.window is None else clock_text(rate.window.start),
            "to": None if rate.window is None else clock_text(rate.window.end),
            "value": rate.kb_per_second,
        }
        for rate in limits.network
    ]
    return {
        "nice": limits.nice,
        "read_bytes_per_second": limits.read_bytes_per_second,
        "network_kb_per_second": network,
    }


def _notify(notify: Notify) -> dict[str, Any]:
    mail, hook = notify.mail, notify.webhook
    return {
        "mail": None if mail is None else {"to": list(mail.to), "on": mail.on.value},
        "webhook": None if hook is None else {"url": hook.url, "secret_file": hook.secret_file, "on": hook.on.value},
    }
