"""SOAP as the vSphere API speaks it, read and written by pyVmomi's own (de)serialisers.

The envelope is that of SOAP 1.1; types and names come from pyVmomi's tables, which VMware makes from the API's
definition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET
from xml.parsers.expat import ParserCreate
from xml.sax.saxutils import escape

from pyVmomi import SoapAdapter, VmomiSupport, vmodl

#: Namespace of the API, of every version since 2.5.
NAMESPACE = "urn:vim25"

#: Namespace of SOAP 1.1's envelope.
ENVELOPE = "{http://schemas.xmlsoap.org/soap/envelope/}"

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/" '
    'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
)
_TAIL = "</soapenv:Body></soapenv:Envelope>"


@dataclass(frozen=True, slots=True)
class Call:
    """A method that a client asks for.

    Attributes:
        kind: Name of the managed object's type, such as ``VirtualMachine``.
        moid: Its id.
        method: The method's name on the wire, such as ``CreateSnapshot_Task``.
        arguments: By the names of the definition.
        definition: pyVmomi's; None for ``Fetch``, which gets one property and stands in no definition.
    """

    kind: str
    moid: str
    method: str
    arguments: Mapping[str, Any]
    definition: Any


def snake(name: str) -> str:
    """Turn a name of the API into one of Python: ``CreateSnapshot_Task`` into ``create_snapshot``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("_Task")).lower()


def read_call(body: bytes) -> Call:
    """Read a request's envelope.

    Raises:
        vmodl.fault.InvalidRequest: It is no request, or has a parameter that the method doesn't know.
        vmodl.fault.MethodNotFound: No version has such a method.
    """
    try:
        wanted = ET.fromstring(body).find(f"{ENVELOPE}Body")
    except ET.ParseError as exc:
        raise vmodl.fault.InvalidRequest(msg=str(exc)) from exc
    if wanted is None or not len(wanted) or not len(wanted[0]):
        raise vmodl.fault.InvalidRequest(msg="no method in the request's body")
    element = wanted[0]
    method = _local(element)
    kind, moid = element[0].get("type", ""), element[0].text or ""
    if method == "Fetch":
        return Call(kind, moid, method, {"prop": element[1].text or ""}, None)
    try:
        definition = VmomiSupport.GetWsdlMethod(NAMESPACE, method).info
    except KeyError:
        raise vmodl.fault.MethodNotFound(method=method, msg=f"no method {method}") from None
    return Call(kind, moid, method, _arguments(element, definition), definition)


def _arguments(element: ET.Element, definition: Any) -> dict[str, Any]:
    known = {parameter.name: parameter.type for parameter in definition.params}
    given: dict[str, Any] = {}
    for child in element[1:]:
        name = _local(child)
        if name not in known:
            raise vmodl.fault.InvalidRequest(msg=f"{definition.wsdlName} has no parameter {name}")
        if issubclass(known[name], list):
            given.setdefault(name, known[name]()).append(_read(child, known[name].Item))
        else:
            given[name] = _read(child, known[name])
    return given


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _read(element: ET.Element, kind: Any) -> Any:
    if issubclass(kind, VmomiSupport.ManagedObject):
        return VmomiSupport.GetWsdlType(NAMESPACE, element.get("type") or VmomiSupport.GetWsdlName(kind))(
            element.text or "", None
        )
    # The deserialiser learns prefixes as it meets them, but those of types' names may be declared above this element.
    names = {None: [NAMESPACE], "xsd": [SoapAdapter.XMLNS_XSD], "xs": [SoapAdapter.XMLNS_XSD]}
    parser = ParserCreate(namespace_separator=SoapAdapter.NS_SEP)
    reader = SoapAdapter.SoapDeserializer()
    reader.Deserialize(parser, kind, nsMap=names)
    parser.Parse(ET.tostring(element, encoding="unicode"), True)
    return reader.GetResult()


def result(call: Call, value: Any, version: str) -> bytes:
    """Write what a method returns."""
    text = ""
    if value is not None:
        kind = object if call.definition is None else call.definition.result
        info = VmomiSupport.Object(
            name="returnval", type=kind, version=VmomiSupport.BASE_VERSION, flags=VmomiSupport.F_OPTIONAL
        )
        text = SoapAdapter.SerializeToStr(value, info, version, {NAMESPACE: ""})
    return f'{_HEAD}<{call.method}Response xmlns="{NAMESPACE}">{text}</{call.method}Response>{_TAIL}'.encode()


def fault(raised: Any, version: str) -> bytes:
    """Write a fault, as the body of an answer with status 500."""
    name = f"{VmomiSupport.GetWsdlName(type(raised))}Fault"
    info = VmomiSupport.Object(name=name, type=object, version=VmomiSupport.BASE_VERSION, flags=0)
    bare = type(raised)(**{key: value for key, value in vars(raised).items() if key != "msg" and _known(raised, key)})
    detail = SoapAdapter.SerializeFaultDetail(bare, info, version)
    return (
        f"{_HEAD}<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{escape(raised.msg or '')}"
        f"</faultstring><detail>{detail}</detail></soapenv:Fault>{_TAIL}"
    ).encode()


def _known(raised: Any, key: str) -> bool:
    return any(info.name == key for info in raised._GetPropertyList())


def typed(kind: Any, value: Any) -> Any:
    """Give a list the array type that an ``anyType`` on the wire needs."""
    return kind(value) if isinstance(value, list) and issubclass(kind, list) else value


def dump(value: Any) -> str:
    """Write a data object as text, to be kept in a file."""
    info = VmomiSupport.Object(name="object", type=object, version=VmomiSupport.BASE_VERSION, flags=0)
    return str(SoapAdapter.SerializeToStr(value, info, VmomiSupport.newestVersions.GetName("vim")))


def load(text: str) -> Any:
    """Read what `dump` wrote."""
    return SoapAdapter.Deserialize(text)


def filled(kind: Any, **given: Any) -> Any:
    """Return a data object with these properties, and of those that the wire can't do without the least."""
    made = kind(**given)
    for info in made._GetPropertyList():
        if not info.flags & VmomiSupport.F_OPTIONAL and getattr(made, info.name) in (None, []):
            setattr(made, info.name, _least(info.type))
    return made


def _least(kind: Any) -> Any:
    if issubclass(kind, list):
        return kind([_least(kind.Item)])
    if issubclass(kind, VmomiSupport.DataObject):
        return filled(kind)
    if issubclass(kind, VmomiSupport.Enum):
        return kind.values[0]
    # A type's name is on the wire what `type` is here.
    return VmomiSupport.DataObject if kind is type else kind()
