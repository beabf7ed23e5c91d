"""The accounting of the tests' SLURM: slurmdbd and MariaDB on the login node, both of Debian."""

from __future__ import annotations

COMMANDS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr", "sacct")
PACKAGES = "slurmdbd and mariadb-server"

SETTINGS = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=login
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
# The controller soon forgets a job that has ended; it looks for such once a minute.
MinJobAge=20
"""
DAEMON = """
AuthType=auth/munge
DbdHost=login
SlurmUser=root
PidFile=/run/slurmdbd.pid
LogFile={state}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageUser=root
StorageLoc=slurm_acct_db
"""
"""Configuration of slurmdbd, which reaches MariaDB by the socket at which Debian's client looks for it."""
START = """
mkdir /run/mysqld
mariadb-install-db --no-defaults --user=root --datadir={state}/mariadb --auth-root-authentication-method=normal \\
    --skip-test-db >{state}/mariadb-install.log 2>&1
mariadbd --no-defaults --user=root --datadir={state}/mariadb --socket=/run/mysqld/mysqld.sock --skip-networking \\
    >{state}/mariadb.log 2>&1 &
until [ -S /run/mysqld/mysqld.sock ]; do sleep 0.1; done
slurmdbd -D >{state}/slurmdbd.out 2>&1 &
until sacctmgr --immediate add cluster test >{state}/sacctmgr.log 2>&1; do sleep 0.2; done
"""
"""Shell lines that start both, before the controller, which sends them its jobs."""
