//! The package on a machine where systemd runs: it starts the broker, renews it after an upgrade, ends it before it is
//! removed. The machine is this one, over which a file system is laid that takes all changes; the programs that the package
//! asks are real but for `systemctl`, whose place a script has: it does what the unit says, without a systemd. Needs root,
//! for the mounts.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::{directory, file, make, packages, run};

/// Lays the file system, and leads into it. `$1`: where; `$2`: the packages; then what is to be run there.
const ENTER: &str = r#"
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p run/systemd/system run/units mnt
mount --bind "$2" mnt
rm -f usr/sbin/policy-rc.d
rm -rf etc/broker
mv usr/bin/systemctl usr/bin/systemctl.real
printf '%s' "$SYSTEMCTL" >usr/bin/systemctl
chmod 755 usr/bin/systemctl
exec chroot . sh -ec "$STEPS"
"#;

/// Each unit that runs is a file in /run/units. Its process is the one that has the lock of the socket: by an upgrade it may
/// have become another one than was started.
const SYSTEMCTL: &str = r#"#!/bin/sh
set -f
echo "$*" >>/run/asked
# Links are made without a systemd.
case " $*" in *" --root="*) exec systemctl.real "$@" ;; esac
words=
for word; do case $word in -*) ;; *) words="$words $word" ;; esac; done
set -- $words
verb=$1
shift
name_of() { name=${1%.service}; name=${name#broker@}; }
stop() {
    [ -e "/run/units/$1" ] || return 0
    name_of "$1"
    pid=$(cat "/run/broker/$name.sock.lock")
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
    rm "/run/units/$1"
}
start() {
    [ ! -e "/run/units/$1" ] || return 0
    name_of "$1"
    unit=broker.service
    case $1 in *@*) unit=broker@.service ;; esac
    command=$(sed -n "s/^ExecStart=//p" "/usr/lib/systemd/system/$unit" | sed "s/%i/$name/")
    setpriv --reuid=broker --regid=broker --init-groups $command >>/run/log 2>&1 </dev/null &
    : >"/run/units/$1"
    tries=0
    until redis-cli -s "/run/broker/$name.sock" BROKER SHOW VERSION 2>/dev/null | grep -q ^broker; do
        tries=$((tries + 1))
        [ "$tries" -lt 500 ] || { cat /run/log; exit 1; }
        sleep 0.02
    done
}
case $verb in
is-enabled) if [ -e "/etc/systemd/system/multi-user.target.wants/$1" ]; then echo enabled; else echo disabled; fi ;;
is-active) [ -e "/run/units/$1" ] ;;
list-units)
    for unit in $(ls /run/units); do
        for pattern; do case $unit in $pattern) echo "$unit loaded active running a broker" ;; esac; done
    done
    ;;
start | stop) for unit; do "$verb" "$unit"; done ;;
restart) for unit; do stop "$unit"; start "$unit"; done ;;
esac
"#;

/// Runs shell commands on that machine; what they say.
fn on_the_machine(steps: &str) -> String {
    let (place, debs) = (directory("machine"), directory("machine-packages"));
    let next = directory("machine-next");
    make(&next, 2);
    let copy = |from: PathBuf, name: &str| std::fs::copy(from, debs.join(name)).expect("copied");
    copy(file(packages(), "redis-broker"), "1.deb");
    copy(file(&next, "redis-broker"), "2.deb");
    // A broker that does not end would be waited for.
    let mut unshare = Command::new("timeout");
    unshare.args([
        "--kill-after=5",
        "300",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        ENTER,
        "sh",
    ]);
    run(unshare
        .args::<[&Path; 2], _>([&place, &debs])
        .env("SYSTEMCTL", SYSTEMCTL)
        .env("STEPS", steps)
        .env("LC_ALL", "C"))
}

#[test]
fn it_starts_the_broker_renews_it_and_leaves_nothing() {
    let said = on_the_machine(
        r#"
        fails() { echo "FAILS: $1"; cat /run/asked /run/log; exit 1; }
        pid() { cat "/run/broker/$1.sock.lock"; }
        # There is no Redis. This the broker answers itself.
        answers() { redis-cli -s "/run/broker/$1.sock" BROKER SHOW VERSION | grep -q ^broker || fails "$1 does not answer"; }
        dpkg -i /mnt/1.deb
        answers broker
        [ "$(stat -c '%U %G %a' /etc/broker/broker.toml)" = 'root broker 640' ] || fails 'who reads the configuration'
        [ "$(stat -c '%U %G %a' /run/broker)" = 'broker broker 755' ] || fails 'the directory of the sockets'
        [ "$(stat -c '%U %G %a' /run/broker/broker.sock)" = 'broker broker 660' ] || fails 'the socket'
        [ "$(ps -o user= -p "$(pid broker)")" = broker ] || fails 'whose process it is'

        sed 's|broker.sock|other.sock|' /etc/broker/broker.toml >/etc/broker/other.toml
        systemctl start broker@other.service
        answers other
        echo '# changed' >>/etc/broker/broker.toml
        before="$(pid broker) $(pid other)"
        dpkg -i /mnt/2.deb
        answers broker
        answers other
        after="$(pid broker) $(pid other)"
        [ "${before% *}" != "${after% *}" ] && [ "${before#* }" != "${after#* }" ] || fails 'each is of the new version'
        grep -q '# changed' /etc/broker/broker.toml || fails 'a changed configuration stays'

        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        dpkg -i /mnt/2.deb
        [ "$after" = "$(pid broker) $(pid other)" ] || fails 'the policy forbids it'
        rm /usr/sbin/policy-rc.d

        systemctl stop broker.service
        rm /etc/systemd/system/multi-user.target.wants/broker.service
        dpkg -i /mnt/2.deb
        [ ! -e /run/units/broker.service ] || fails 'what is stopped and disabled is not started'
        answers other

        dpkg -r redis-broker
        [ -z "$(ls /run/units)" ] || fails 'all of them end'
        [ ! -e /run/broker ] || fails 'sockets and locks'
        [ -e /etc/broker/broker.toml ] || fails 'a removed package keeps its configuration'
        dpkg -P redis-broker
        [ "$(ls -A /etc/broker)" = other.toml ] || fails 'what is not the package'"'"'s stays'
        [ -z "$(find /etc/systemd /usr/lib/systemd /usr/lib/sysusers.d /usr/lib/tmpfiles.d -name '*broker*')" ] || fails links
        getent passwd broker | grep -q ':/usr/sbin/nologin$' || fails 'the account stays, and is locked'
        echo done
        "#,
    );
    assert!(said.contains("\ndone\n"), "{said}");
}
