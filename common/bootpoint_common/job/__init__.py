"""The job file: what is protected, where to, when and how, as frozen values.

`read_toml` and `read_json` make a `Spec` or say every error of the file at once; `as_json` and
`write_toml` write it back; `difference` says what a re-apply would do.
"""

from bootpoint_common.job.difference import Change, When, difference
from bootpoint_common.job.reading import limits_of, read_json, read_toml, scripts_of
from bootpoint_common.job.schedule import LAST_DAY, Schedule, Window, longest_gap
from bootpoint_common.job.spec import (
    Check,
    Consistency,
    Disk,
    Group,
    Limits,
    Mail,
    Notify,
    NotifyOn,
    Objective,
    OnShutdown,
    Rate,
    Retry,
    RunRules,
    Script,
    Scripts,
    Skip,
    Source,
    SourceVm,
    Spec,
    Webhook,
)
from bootpoint_common.job.table import SpecError
from bootpoint_common.job.target import (
    Firmware,
    HostDefaults,
    Ip,
    IpMode,
    Nic,
    Provisioning,
    Storage,
    Target,
    Vm,
    fill_host_defaults,
)
from bootpoint_common.job.toml import write_toml
from bootpoint_common.job.writing import as_json

__all__ = [
    "LAST_DAY",
    "Change",
    "Check",
    "Consistency",
    "Disk",
    "Firmware",
    "Group",
    "HostDefaults",
    "Ip",
    "IpMode",
    "Limits",
    "Mail",
    "Nic",
    "Notify",
    "NotifyOn",
    "Objective",
    "OnShutdown",
    "Provisioning",
    "Rate",
    "Retry",
    "RunRules",
    "Schedule",
    "Script",
    "Scripts",
    "Skip",
    "Source",
    "SourceVm",
    "Spec",
    "SpecError",
    "Storage",
    "Target",
    "Vm",
    "Webhook",
    "When",
    "Window",
    "as_json",
    "difference",
    "fill_host_defaults",
    "limits_of",
    "longest_gap",
    "read_json",
    "read_toml",
    "scripts_of",
    "write_toml",
]
