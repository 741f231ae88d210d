"""The tests that find faults: conditions over the vehicle's values, silence of other ECUs, state of buses.

Each is looked at about ten times a second while an operation cycle lasts, the supply is good and its own conditions
hold; what each look finds goes through the debounce of ``dtc_status``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from simulator.ecu.context import VOLTAGE
from simulator.ecu.dtc_description import DtcDescription, FaultTest
from simulator.ecu.vehicle import VehiclePort

PERIOD_S = 0.1
#: Below or above, sensors and buses cannot be judged; only tests of the supply itself run.
SUPPLY_V = (9.0, 16.5)

#: (code, condition of the fault is present, milliseconds since the last look, for_ms, heal_ms).
Observer = Callable[[int, bool, float, float, float], None]


@dataclass(slots=True)
class _Running:
    number: int
    source: FaultTest
    about_supply: bool
    last: float | None = None


class FaultTests:
    """The tests of one ECU."""

    def __init__(self, codes: Iterable[DtcDescription], vehicle: VehiclePort, is_deaf: Callable[[], bool]) -> None:
        """``is_deaf``: the ECU was told not to receive, so that silence proves nothing.

        Raises ``ValueError`` for a signal, message or bus the vehicle does not have; the text names it and the code.
        """
        self._vehicle, self._is_deaf = vehicle, is_deaf
        self._tests: list[_Running] = []
        #: Codes held failing or passing from outside (control socket, tests) whatever their condition says.
        self.forced: dict[int, bool] = {}
        self._sources = {dtc.number: dtc.test for dtc in codes}
        for dtc in codes:
            if dtc.test is None:
                continue
            for signal in _signals(dtc.test):
                if not vehicle.has(signal):
                    raise ValueError(f"{dtc.code}: no signal {signal}")
            _check_bus(dtc, dtc.test, vehicle)
            self._tests.append(_Running(dtc.number, dtc.test, dtc.test.signal == VOLTAGE))

    def look(self, elapsed_ms: float, observe: Observer) -> None:
        """Look at all conditions; ``elapsed_ms`` since the last look."""
        for number, held in self.forced.items():
            usual = self._sources.get(number) or _USUAL
            observe(number, held, elapsed_ms, usual.for_ms, usual.heal_ms)
        supplied = SUPPLY_V[0] <= self._supply_v() <= SUPPLY_V[1]
        for test in self._tests:
            if test.number in self.forced or not (supplied or test.about_supply):
                continue
            source = test.source
            if all(condition.holds(self._vehicle.value(condition.signal)) for condition in source.when):
                failing = self._is_failing(test)
                if failing is not None:
                    observe(test.number, failing, elapsed_ms, source.for_ms, source.heal_ms)
            else:
                test.last = None

    def _supply_v(self) -> float:
        return self._vehicle.value(VOLTAGE) if self._vehicle.has(VOLTAGE) else 12.0

    def _is_failing(self, test: _Running) -> bool | None:
        source, vehicle = test.source, self._vehicle
        if source.silent or source.corrupt:
            message = source.silent or source.corrupt
            if self._is_deaf() or vehicle.bus_off(message.partition(".")[0]):
                return None
            late = vehicle.age_s(message) * 1000 > source.timeout_ms
            if source.silent:
                return late
            return None if late else vehicle.is_corrupt(message)
        if source.bus_off:
            return vehicle.bus_off(source.bus_off)
        if source.frozen:
            before, test.last = test.last, vehicle.value(source.frozen)
            return None if before is None else before == test.last
        value = vehicle.value(source.signal)
        if source.minus:
            value = abs(value - vehicle.value(source.minus))
        return (
            (source.above is not None and value > source.above)
            or (source.below is not None and value < source.below)
            or (source.equals is not None and value == source.equals)
        )


#: Times of a forced code that has no test of its own.
_USUAL = FaultTest(bus_off="-")


def _check_bus(dtc: DtcDescription, source: FaultTest, vehicle: VehiclePort) -> None:
    message = source.silent or source.corrupt
    try:
        if message:
            vehicle.age_s(message)
        if source.bus_off:
            vehicle.bus_off(source.bus_off)
    except (KeyError, ValueError):
        raise ValueError(f"{dtc.code}: no message or bus {message or source.bus_off}") from None


def _signals(source: FaultTest) -> list[str]:
    names = [source.signal, source.minus, source.frozen, *(condition.signal for condition in source.when)]
    return [name for name in names if name]
