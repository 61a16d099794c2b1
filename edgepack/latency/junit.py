"""Checks as JUnit XML, the form in which every CI system shows test results.

Elements and attributes as Jenkins' JUnit plugin (``junit-10.xsd``) and GitLab read them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from edgepack.latency.gate import Check

# What is no Char of XML 1.0 (section 2.2) and cannot be escaped either.
_NO_CHARACTER = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(checks: Sequence[Check], suite: str, require_measured: bool = False) -> bytes:
    """One testcase a check, UTF-8.

    A check that fails is a failure, an invalid measurement an error; what was not measured, or has no budget, is skipped with the reason.

    Args:
        suite: what the suite is called; require_measured: whether a missing measurement is a failure.
    """
    cases = [_case(check, require_measured) for check in checks]
    counts = {"tests": len(cases), **{plural: sum(case.find(tag) is not None for case in cases) for tag, plural in _COUNTED.items()}}
    found = ElementTree.Element("testsuite", {"name": _text(suite), **{name: str(count) for name, count in counts.items()}})
    found.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(found)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


_COUNTED = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def _case(check: Check, require_measured: bool) -> ElementTree.Element:
    case = ElementTree.Element("testcase", {"classname": _text(f"edgepack.{check.subject}"), "name": check.name, "time": "0"})
    words = _text(check.words)
    if check.fails(require_measured):
        tag = "error" if check.status == "invalid" else "failure"
        ElementTree.SubElement(case, tag, {"message": words, "type": check.status}).text = words
    elif check.status == "pass":
        ElementTree.SubElement(case, "system-out").text = words
    else:
        ElementTree.SubElement(case, "skipped", {"message": f"{check.status}: {words}"})
    return case


def _text(words: str) -> str:
    return _NO_CHARACTER.sub("\ufffd", words)
