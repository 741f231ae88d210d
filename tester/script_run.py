"""Running a script: one result for each request, in JSON or as JUnit XML."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from xml.etree import ElementTree

import anyio
import msgspec

from gateway.errors import GatewayError
from gateway.uds.client import KeyFunction, UdsClient
from gateway.uds.errors import NegativeResponse, NoAnswer
from tester.errors import TesterError, UsageError
from tester.script import Pattern, Step, fill_in, parse_expectation, to_bytes
from tester.trace_pdu import describe_pdu

#: Gives the client of an ECU, and its key function for a level.
ClientOf = Callable[[str], Awaitable[UdsClient]]
KeyOf = Callable[[str, int], KeyFunction]


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request or another step that can fail."""

    line: int
    name: str
    ecu: str
    request: str = ""
    answer: str = ""  # hexadecimal; "" for silence
    text: str = ""
    expected: str = ""
    passed: bool = True
    problem: str = ""
    seconds: float = 0.0


class ScriptReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    script: str
    results: tuple[StepResult, ...]
    seconds: float

    @property
    def failed(self) -> int:
        """How many did not do as expected."""
        return sum(not result.passed for result in self.results)


class ScriptRun:
    """One run."""

    def __init__(
        self,
        client_of: ClientOf,
        key_of: KeyOf,
        *,
        ecu: str = "",
        variables: dict[str, str] | None = None,
        keep_going: bool = False,
        on_result: Callable[[StepResult], None] = lambda result: None,
    ) -> None:
        self._client_of, self._key_of, self._tell = client_of, key_of, on_result
        self._ecu, self._name, self._variables = ecu, "", dict(variables or {})
        self._keep_going, self._results = keep_going, list[StepResult]()
        self._answer = b""
        self._retry: tuple[int, float] = (1, 0.0)

    async def run(self, steps: tuple[Step, ...], script: str) -> ScriptReport:
        """All steps, or up to the first failure.

        Raises:
            UsageError: no ECU was named before the first request.
        """
        began_s = anyio.current_time()
        await self._run(steps)
        return ScriptReport(
            script=script, results=tuple(self._results), seconds=round(anyio.current_time() - began_s, 3)
        )

    async def _run(self, steps: tuple[Step, ...]) -> bool:
        """False: stop."""
        for i, step in enumerate(steps):
            following = steps[i + 1] if i + 1 < len(steps) else None
            if not await self._one(step, following) and not self._keep_going:
                return False
        return True

    async def _one(self, step: Step, following: Step | None) -> bool:
        try:
            words = fill_in(step.words, self._variables)
            match step.verb:
                case "repeat":
                    for _ in range(int(words[0])):
                        if not await self._run(step.inner):
                            return False
                case "ecu":
                    self._ecu = words[0]
                case "name":
                    self._name = " ".join(words)
                case "set":
                    self._variables[words[0]] = " ".join(words[1:])
                case "save":
                    start = int(words[1])
                    end = start + int(words[2]) if len(words) > 2 else None
                    self._variables[words[0]] = self._answer[start:end].hex().upper()
                case "wait":
                    await anyio.sleep(float(words[0]))
                case "retry":
                    self._retry = int(words[0]), float(words[1]) if len(words) > 1 else 0.0
                case "send":
                    wanted = following.words if following is not None and following.verb == "expect" else ()
                    return await self._send(step, to_bytes(words), fill_in(wanted, self._variables))
                case "unlock" | "session":
                    return await self._enter(step, words[0])
        except (ValueError, TesterError) as error:
            if isinstance(error, UsageError):
                raise
            return self._note(step, problem=str(error))
        return True  # "expect" was looked at with its "send"

    async def _client(self) -> UdsClient:
        if not self._ecu:
            raise UsageError("the script asks before it names an ECU (a line `ecu NAME`, or --ecu)")
        return await self._client_of(self._ecu)

    async def _enter(self, step: Step, word: str) -> bool:
        client = await self._client()
        try:
            if step.verb == "session":
                await client.session(int(word, 16))
            else:
                level = int(word, 16)
                await client.security_access(level, self._key_of(self._ecu, level))
        except GatewayError as error:
            return self._note(step, problem=str(error), text=f"{step.verb} {word}")
        return self._note(step, text=f"{step.verb} {word}")

    async def _send(self, step: Step, request: bytes, wanted: tuple[str, ...]) -> bool:
        client = await self._client()
        expectation = parse_expectation(wanted) if wanted else Pattern((request[0] | 0x40,), True)
        tries, pause_s = self._retry
        self._retry = (1, 0.0)
        began_s = anyio.current_time()
        problem = ""
        for attempt in range(tries):
            if attempt:
                await anyio.sleep(pause_s)
            self._answer, problem = await self._ask(client, request, is_silence_wanted=expectation is None)
            if not problem:
                problem = _judge(expectation, self._answer)
            if not problem:
                break
        return self._note(
            step,
            request=request.hex().upper(),
            answer=self._answer.hex().upper(),
            text=describe_pdu(self._answer) if self._answer else "(silence)",
            expected=" ".join(wanted),
            problem=problem,
            seconds=round(anyio.current_time() - began_s, 4),
        )

    @staticmethod
    async def _ask(client: UdsClient, request: bytes, *, is_silence_wanted: bool) -> tuple[bytes, str]:
        try:
            return await client.raw(request) or b"", ""
        except NegativeResponse as refusal:
            return bytes([0x7F, refusal.sid, refusal.nrc]), ""
        except NoAnswer as error:
            return b"", "" if is_silence_wanted else str(error)
        except GatewayError as error:
            return b"", str(error)

    def _note(self, step: Step, *, problem: str = "", **facts: object) -> bool:
        result = msgspec.convert(
            {
                "line": step.line,
                "name": self._name,
                "ecu": self._ecu,
                "passed": not problem,
                "problem": problem,
                **facts,
            },
            StepResult,
        )
        self._results.append(result)
        self._tell(result)
        return result.passed


def _judge(expectation: Pattern | int | None, answer: bytes) -> str:
    """What is wrong with an answer; "" nothing."""
    is_refusal = answer[:1] == b"\x7f"
    if expectation is None:
        return f"expected silence, got {answer.hex(' ').upper()}" if answer else ""
    if isinstance(expectation, int):
        if not is_refusal:
            return "expected a refusal"
        return "" if expectation in (-1, answer[2]) else f"expected NRC {expectation:02X}, got {answer[2]:02X}"
    if expectation.matches(answer):
        return ""
    return f"refused: {describe_pdu(answer)}" if is_refusal else f"got {answer.hex(' ').upper() or 'silence'}"


def junit(report: ScriptReport) -> str:
    """As JUnit XML, what test servers read."""
    suite = ElementTree.Element(
        "testsuite", name=_xml(report.script), tests=str(len(report.results)), failures=str(report.failed),
        time=f"{report.seconds:.3f}",
    )  # fmt: skip
    for result in report.results:
        name = f"line {result.line}: {result.name or result.request or result.text}"
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(result.ecu), name=_xml(name), time=f"{result.seconds:.4f}"
        )
        if not result.passed:
            failure = ElementTree.SubElement(case, "failure", message=_xml(result.problem))
            failure.text = _xml(f"request {result.request}\nanswer {result.answer}\nexpected {result.expected}")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _xml(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
