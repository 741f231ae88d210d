"""The body controller: doors, locks, lights, wipers, horn, key, alarm, valet mode and remote start.

Actuator messages act here (``command``) and are proven by the status signals; what is refused says so in a result
signal and changes nothing. Time is the vehicle's own, in seconds since the simulation began.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

ACTUATORS = ("LockCommand", "HornCommand", "LightCommand", "ClimateCommand", "ValetCommand", "StartCommand")


class Result(IntEnum):
    """What became of a command; the value table of the ``…Result`` signals."""

    NONE = 0
    ACCEPTED = 1
    REFUSED = 2
    BAD_CHECKSUM = 3
    REPEATED = 4


class Inhibit(IntEnum):
    """Why the car would not start from afar; the value table of ``StartInhibit``."""

    NONE = 0
    MOVING = 1
    DOOR_OPEN = 2
    BATTERY_LOW = 3
    CHARGING = 4
    NOT_IN_PARK = 5


class Key(IntEnum):
    """Position of the start switch."""

    OFF = 0
    ACCESSORY = 1
    ON = 2
    START = 3


class Alarm(IntEnum):
    """State of the anti-theft alarm."""

    DISARMED = 0
    ARMING = 1
    ARMED = 2
    TRIGGERED = 3


UNLOCKED, LOCKED, MOVING = 0, 1, 2
LOCK_TRAVEL_S = 0.25
ARMING_S = 30.0
INDICATOR_PERIOD_S = 0.72


class Body:
    """State of the body controller."""

    def __init__(self) -> None:
        self.doors = [False] * 4
        self.tailgate = self.bonnet = self.flap = False
        self.locks = [LOCKED] * 5  # four doors and the tailgate
        self._lock_target = LOCKED
        self._lock_done_s = [-1.0] * 5
        self.lock_commands_done = 0
        self.windows = [0.0] * 4
        self.belts = [False] * 4
        self.occupied = [False] * 4
        self.key = Key.OFF
        self.key_in_cabin = False
        self.immobiliser = 0
        self.alarm = Alarm.ARMED
        self._armed_at_s = 0.0
        self.alarm_count = 0
        self.indicator = 0  # 0 none, 1 left, 2 right
        self.hazard = False
        self.low_beam_requested = False
        self.low_beam = self.high_beam = self.daytime = self.parking_light = self.fog_rear = False
        self.interior = 0.0
        self._flash_until_s = self._low_beam_until_s = self._interior_until_s = -1.0
        self._horn_until_s = -1.0
        self.horn = False
        self.horn_count = 0
        self.wiper_mode = 0
        self.wiper_angle = 0.0
        self.washer = 0.75
        self.rain = 0.0
        self.valet = False
        self.valet_limit_kmh = 0.0
        self.valet_m = 0.0
        self.remote_start = False
        self.remote_until_s = 0.0
        self.inhibit = Inhibit.NONE
        self.climate_requested: bool | None = None
        self.climate_setpoint_c: float | None = None
        self._climate_until_s: float | None = None
        self.results = dict.fromkeys(ACTUATORS, Result.NONE)
        self.now_s = 0.0

    # ---- commands

    def refuse(self, message: str, result: Result) -> None:
        """Note that a command was not even looked at (checksum, repeated counter)."""
        self.results[message] = result

    def command(self, message: str, value: Mapping[str, float], *, inhibit: Inhibit, speed_kmh: float) -> Result:
        """Carry out an actuator message whose checksum and counter were right; returns and shows the result.

        ``inhibit`` is why the car could not be started now. An unknown request value is refused.
        """
        if message == "LockCommand":
            result = self._lock(value, speed_kmh)
        elif message == "HornCommand":
            result = self._sound(value)
        elif message == "LightCommand":
            result = self._light(value)
        elif message == "ClimateCommand":
            result = self._climate(value)
        elif message == "ValetCommand":
            result = self._valet(value)
        else:
            result = self._start(value, inhibit)
        self.results[message] = result
        return result

    def _lock(self, value: Mapping[str, float], speed_kmh: float) -> Result:
        request, scope = int(value["LockRequest"]), int(value["LockScope"])
        which = {0: range(5), 1: range(1), 2: range(4, 5)}.get(scope)
        unlock_moving = request == 2 and speed_kmh > 5
        valet_tailgate = request == 2 and scope == 2 and self.valet
        if request not in (1, 2) or which is None or unlock_moving or valet_tailgate:
            return Result.REFUSED
        locked = request == 1
        self.set_locks(locked, [i for i in which if not (self.valet and i == 4 and not locked)])
        self.lock_commands_done = (self.lock_commands_done + 1) % 65536
        return Result.ACCEPTED

    def _sound(self, value: Mapping[str, float]) -> Result:
        if not value["HornRequest"]:
            self._horn_until_s = self.now_s
            return Result.ACCEPTED
        if not 0 < value["HornDuration"] <= 10:
            return Result.REFUSED
        self._horn_until_s = self.now_s + value["HornDuration"]
        self.horn_count = (self.horn_count + 1) % 256
        return Result.ACCEPTED

    def _light(self, value: Mapping[str, float]) -> Result:
        request, until = int(value["LightRequest"]), self.now_s + value["LightDuration"]
        if request == 1:
            self._flash_until_s = until
        elif request == 2:
            self._low_beam_until_s = until
        elif request == 3:
            self._low_beam_until_s = self.now_s
        elif request == 4:
            self._interior_until_s = until
        else:
            return Result.REFUSED
        return Result.ACCEPTED

    def _climate(self, value: Mapping[str, float]) -> Result:
        request = int(value["ClimateRequest"])
        if request not in (1, 2) or (request == 1 and not 14 <= value["ClimateSetpoint"] <= 32):
            return Result.REFUSED
        self.climate_requested = request == 1
        if request == 1:
            self.climate_setpoint_c = value["ClimateSetpoint"]
        minutes = value["ClimateDuration"]
        self._climate_until_s = self.now_s + 60 * minutes if request == 1 and minutes else None
        return Result.ACCEPTED

    def _valet(self, value: Mapping[str, float]) -> Result:
        request = int(value["ValetRequest"])
        if request not in (1, 2):
            return Result.REFUSED
        if request == 1 and not self.valet:
            self.valet_m = 0.0
            self.set_locks(True, [4])
        self.valet = request == 1
        self.valet_limit_kmh = value["ValetSpeedRequest"] if self.valet else 0.0
        return Result.ACCEPTED

    def _start(self, value: Mapping[str, float], inhibit: Inhibit) -> Result:
        request = int(value["StartRequest"])
        if request == 2:
            self.remote_start = False
            return Result.ACCEPTED
        self.inhibit = inhibit
        if request != 1 or inhibit != Inhibit.NONE or value["StartDuration"] <= 0:
            return Result.REFUSED
        self.remote_start = True
        self.remote_until_s = self.now_s + 60 * value["StartDuration"]
        return Result.ACCEPTED

    # ---- what people do

    def set_locks(self, locked: bool, which: list[int] | range = range(5)) -> None:
        """Start the lock motors; they arrive ``LOCK_TRAVEL_S`` later."""
        target = LOCKED if locked else UNLOCKED
        for i in which:
            if self.locks[i] != target:
                self.locks[i] = MOVING
                self._lock_done_s[i] = self.now_s + LOCK_TRAVEL_S
                self._lock_target = target
        if not locked:
            self.alarm = Alarm.DISARMED
        elif self.alarm == Alarm.DISARMED and self.key == Key.OFF:
            self.alarm, self._armed_at_s = Alarm.ARMING, self.now_s

    @property
    def remote_remaining_s(self) -> float:
        """Time until remote start switches off."""
        return max(0.0, self.remote_until_s - self.now_s) if self.remote_start else 0.0

    @property
    def any_door_open(self) -> bool:
        """A door, the tailgate or the bonnet is open."""
        return any(self.doors) or self.tailgate or self.bonnet

    def indicator_lit(self, side: int) -> bool:
        """Whether the indicator of ``side`` (1 left, 2 right) is lit at this moment."""
        wanted = self.hazard or self.now_s < self._flash_until_s or self.indicator == side
        return wanted and (self.now_s % INDICATOR_PERIOD_S) < INDICATOR_PERIOD_S / 2

    # ---- time

    def step(self, now_s: float, *, ignition: bool, dark: bool, moved_m: float) -> None:
        """Let time pass up to ``now_s``."""
        dt_s = now_s - self.now_s
        self.now_s = now_s
        for i in range(5):
            if self.locks[i] == MOVING and now_s >= self._lock_done_s[i]:
                self.locks[i] = self._lock_target
        self.horn = now_s < self._horn_until_s
        self.low_beam = (ignition and dark) or now_s < self._low_beam_until_s
        self.daytime = ignition and not self.low_beam
        interior = 1.0 if any(self.doors) or now_s < self._interior_until_s else 0.0
        self.interior += (interior - self.interior) * min(1.0, dt_s / 0.6)
        if self.interior < 0.004:
            self.interior = 0.0
        if self._climate_until_s is not None and now_s >= self._climate_until_s:
            self.climate_requested, self._climate_until_s = False, None
        if self.remote_start and now_s >= self.remote_until_s:
            self.remote_start = False
        if self.alarm == Alarm.ARMING and now_s - self._armed_at_s >= ARMING_S:
            self.alarm = Alarm.ARMED
        if self.alarm == Alarm.ARMED and self.any_door_open:
            self.alarm = Alarm.TRIGGERED
            self.alarm_count = (self.alarm_count + 1) % 256
        if self.valet:
            self.valet_m += moved_m
        self._wipe(dt_s, ignition=ignition)

    def _wipe(self, dt_s: float, *, ignition: bool) -> None:
        wanted = 0 if not ignition or self.rain < 0.02 else 1 if self.rain < 0.25 else 2 if self.rain < 0.6 else 3
        self.wiper_mode = wanted
        period_s = {0: 0.0, 1: 4.0, 2: 1.4, 3: 0.9}[wanted]
        if not period_s:
            self.wiper_angle = max(0.0, self.wiper_angle - 120 * dt_s)
            return
        phase = (self.now_s % period_s) / min(period_s, 1.4)
        self.wiper_angle = 110 * max(0.0, 1 - abs(2 * phase - 1)) if phase < 1 else 0.0
