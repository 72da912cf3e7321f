"""An interpreter of the PowerShell that bootpoint's module for Hyper-V hosts is written in, for tests only.

There is no PowerShell to be had where the tests run. This one knows a subset of versions 3.0 to 5.1 and refuses what it
doesn't know: `OutsideSubset` names the construct and the line, a construct even where no run comes by. It is written
from Microsoft's about_* pages and references of cmdlets and .NET; each module says which. What it can't prove is that
Windows PowerShell does as those pages say.

::

    run                                    a script with its arguments, commands and drives; what came of it
      reader, reading_*, syntax            tree-sitter's tree to nodes (node); everything unknown is refused here
      statement, assignment, expression    nodes carried out, by the tables of evaluation
        operator, comparison               -eq, -contains, + ...
        pattern, formatting                -like, -match, -f ...
        member, method, static, net_*      properties and methods of the listed few .NET types
        conversion, kind, value, failure   what values are, and of which type; exceptions and error records
      command, block, stage                pipelines, and the commands in them
        binding, argument                  which argument is which parameter's, and what it becomes
        builtin_*                          Where-Object, Get-Content, ConvertTo-Json ...
        cmdlet, files                      the machine's own commands and drives: whoever tests brings them
      context                              variables, functions, errors so far

A test's own command is a `Cmdlet`: its parameters in words, and a function that is called with a `Call`::

    def start(call):
        machine = machines[call["Name"]]
        if machine.locked:
            call.error(failure("System.InvalidOperationException", "it is locked", "Locked", "ResourceBusy"))
            return None
        return machine.start()

    commands = {"Start-VM": Cmdlet(parameters(["Name string 0 mandatory"]), start)}
    run(text, ["first", "second"], commands, Drives({"D": directory}))

Outside of the subset, among others: classes, modules, traps, workflows, jobs, remoting, labels, dot-sourcing,
redirection to files, script text built at run time; types of array members; formats that depend on a culture. Whole
numbers have the type that their size asks for, so that a sum beyond 32 bits stays whole where Windows PowerShell makes
a double of it: they print alike up to 10^15, from which on they are refused.
"""

from tests.hyperv.pwsh.cmdlet import Call, Cmdlet, parameters
from tests.hyperv.pwsh.failure import ErrorRecord, Failure, NetException, OutsideSubset, failure
from tests.hyperv.pwsh.files import Access, Drives, Files
from tests.hyperv.pwsh.run import Machine, Outcome, run
from tests.hyperv.pwsh.value import PSObject, Version

__all__ = [
    "Access",
    "Call",
    "Cmdlet",
    "Drives",
    "ErrorRecord",
    "Failure",
    "Files",
    "Machine",
    "NetException",
    "Outcome",
    "OutsideSubset",
    "PSObject",
    "Version",
    "failure",
    "parameters",
    "run",
]
