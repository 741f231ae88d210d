# Outrider: choose a slot and start it (U-Boot script; for bootcmd, or mkimage -T script).
#
# The rule: of the slots in BOOT_ORDER the first that is good (costs nothing) or has tries left (one is taken, and stored,
# before anything of the slot runs). With none left all tries are given back, once a reset, and that is counted.
#
# The board provides, as environment variables:
#   outrider_start     load and start ${slot}; pass rauc.slot=${slot}; comes back only if that fails
#   outrider_save      store BOOT_*: "saveenv" where the environment is redundant, else see uboot-raw.env
#   outrider_load      read BOOT_*, where U-Boot has not done so at its start   (may be missing)
#   outrider_watchdog  arm the watchdog, so that a hang takes a try, too         (may be missing)
#   outrider_recovery  run once all tries were used up, before the reset         (may be missing)
#   outrider_slots     all slots, the first one first                            ("A B")
#   outrider_tries     given when nothing is bootable                            (3)

test -n "${outrider_slots}" || setenv outrider_slots "A B"
test -n "${outrider_tries}" || setenv outrider_tries 3
test -n "${outrider_load}" && run outrider_load
test -n "${BOOT_ORDER}" || setenv BOOT_ORDER "${outrider_slots}"

for name in ${BOOT_ORDER}; do
  setenv slot ${name}
  setenv outrider_q 'setenv left ${BOOT_'${slot}'_LEFT}; setenv good ${BOOT_'${slot}'_GOOD}'
  run outrider_q
  test -n "${left}" || setenv left ${outrider_tries}
  setenv go
  if test ${left} -gt 0; then
    if test "${good}" = "1"; then
      echo "Outrider: booting slot ${slot} (good)"
      setenv go yes
    else
      setexpr left ${left} - 1
      setenv BOOT_${slot}_LEFT ${left}
      echo "Outrider: booting slot ${slot} (trial, ${left} tries left)"
      # What cannot be counted must not start: it could fail for ever.
      if run outrider_save; then setenv go yes; else echo "Outrider: the try cannot be stored"; fi
    fi
  fi
  if test -n "${go}"; then
    test -n "${outrider_watchdog}" && run outrider_watchdog
    run outrider_start
    echo "Outrider: slot ${slot} did not start"
  fi
done

echo "Outrider: no slot boots; all tries are given back"
for name in ${BOOT_ORDER}; do
  setenv BOOT_${name}_LEFT ${outrider_tries}
done
test -n "${BOOT_RESETS}" || setenv BOOT_RESETS 0
setexpr BOOT_RESETS ${BOOT_RESETS} + 1
run outrider_save
test -n "${outrider_recovery}" && run outrider_recovery
reset
