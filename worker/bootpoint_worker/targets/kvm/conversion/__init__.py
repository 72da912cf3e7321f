"""Looking into boot points of a KVM host, and converting scratch layers above them; never a point itself."""

from bootpoint_worker.targets.kvm.conversion.examination import examine
from bootpoint_worker.targets.kvm.conversion.layer import end_all
from bootpoint_worker.targets.kvm.conversion.route import Converted, convert

__all__ = ["Converted", "convert", "end_all", "examine"]
