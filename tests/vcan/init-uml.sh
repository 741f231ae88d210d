#!/bin/bash
# Process 1 of the User-Mode Linux guest. Standard output and error travel over the serial lines ttyS0 and ttyS1, the
# kernel's messages over the console.
here=$(dirname "$0")
. "$here/init-job.sh"

power_off() {
    poweroff -f
}

mount_basics
modules=/usr/lib/uml/modules/$(uname -r)/kernel
for module in net/can/can net/can/can-raw net/can/can-bcm net/can/can-gw net/can/j1939/can-j1939 \
    drivers/net/can/dev/can-dev drivers/net/can/vcan drivers/net/can/vxcan; do
    insmod "$modules/$module.ko" || echo "no module $module for kernel $(uname -r)"
done
bring_up

if [ -e "$job/command" ]; then
    stty -F /dev/ttyS0 raw -echo
    stty -F /dev/ttyS1 raw -echo
    run_command /dev/ttyS0 /dev/ttyS1
    stty -F /dev/ttyS0 raw # waits until what was written has left
    stty -F /dev/ttyS1 raw
else
    setsid --ctty --wait bash "$job/shell" </dev/tty0 >/dev/tty0 2>&1
    status=$?
fi
leave $status
