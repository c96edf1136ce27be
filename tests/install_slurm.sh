#!/bin/sh
# Installs SLURM and the database behind its accounting, where they are missing and this can be done without a question:
# Debian or Ubuntu, as root or with sudo that asks for no password. Never fails: without SLURM, its tests are skipped.
PATH=$PATH:/usr/sbin:/sbin

skip() { echo "SLURM tests will be skipped: $*" >&2; exit 0; }
has() { command -v "$1" > /dev/null 2>&1; }

missing=$(for p in sbatch srun squeue sacct slurmctld slurmd slurmdbd mariadbd; do has $p || printf ' %s' $p; done)
[ -z "$missing" ] && exit 0
has apt-get || skip "missing$missing, and only apt-get is known to install it"
has sbatch && ! dpkg -s slurm-client > /dev/null 2>&1 && skip "missing$missing, but the SLURM here is a site's own"
sudo=
[ "$(id -u)" = 0 ] || { sudo=sudo; sudo -n true 2> /dev/null || skip "missing$missing, and installing needs root"; }

echo "installing SLURM for its tests (missing$missing); its services stay off" >&2
$sudo timeout 900 sh -s > /dev/null << 'ROOT' || skip "apt-get could not install it"
set -e
export DEBIAN_FRONTEND=noninteractive
new=$(for unit in munge mariadb slurmctld slurmd slurmdbd; do systemctl cat $unit > /dev/null 2>&1 || echo $unit; done)
policy=/usr/sbin/policy-rc.d  # Debian's way to say that no package may start its service now
if ! [ -e $policy ]; then
  trap 'rm -f $policy' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod 755 $policy
fi
apt-get -qq update < /dev/null
apt-get -qq --yes --no-install-recommends install < /dev/null \
  slurmctld slurmd slurm-client munge slurmdbd slurm-wlm-mysql-plugin mariadb-server
systemctl --quiet disable $new 2> /dev/null || true  # nor at the next boot
ROOT
exit 0
