"""What this process may use of its machine: affinity, control groups of both versions, and SLURM's grant."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from reproduce.limits import kills_for_memory, usable_cores, usable_cpus, usable_memory

ALLOWED = len(os.sched_getaffinity(0))
NO_SLURM: dict[str, str] = {}

# A service of systemd with CPUQuota=150% and MemoryMax=1G: files and formats of cgroups(7) and proc(5).
VERSION_2 = {
    "proc/self/cgroup": "0::/system.slice/train.service\n",
    "proc/self/mountinfo": (
        "25 30 0:23 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n"
        "33 25 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    ),
    "sys/fs/cgroup/system.slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/system.slice/memory.max": "max\n",
    "sys/fs/cgroup/system.slice/memory.current": "5368709120\n",
    "sys/fs/cgroup/system.slice/train.service/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/system.slice/train.service/memory.max": "1073741824\n",
    "sys/fs/cgroup/system.slice/train.service/memory.current": "805306368\n",
    "sys/fs/cgroup/system.slice/train.service/memory.stat": "anon 536870912\nfile 268435456\ninactive_file 268435456\n",
}
# A container under version 1: its own control group is the top of what it sees.
VERSION_1 = {
    "proc/self/cgroup": "5:memory:/docker/c0ffee\n3:cpu,cpuacct:/docker/c0ffee\n0::/docker/c0ffee\n",
    "proc/self/mountinfo": (
        "40 39 0:30 /docker/c0ffee /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
        "41 39 0:31 /docker/c0ffee /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    ),
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "805306368\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 268435456\n",
}
UNLIMITED_1 = {
    **VERSION_1,
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
}


def recorded(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


@pytest.mark.parametrize("files", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])
def test_a_control_group_limits_cores_and_memory(tmp_path: Path, files: dict[str, str]) -> None:
    root = recorded(tmp_path, files)
    assert usable_cpus(root, NO_SLURM) == usable_cores(root, NO_SLURM) == 1
    memory = usable_memory(root, NO_SLURM)
    assert (memory.total, memory.available) == (2**30, 2**29)


def test_a_control_group_without_limits_leaves_the_machine(tmp_path: Path) -> None:
    root = recorded(tmp_path, UNLIMITED_1)
    assert usable_cpus(root, NO_SLURM) == ALLOWED
    assert usable_memory(root, NO_SLURM).total == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("granted", "cpus"),
    [
        ({"SLURM_CPUS_ON_NODE": "1", "SLURM_JOB_CPUS_PER_NODE": "64(x2)"}, 1),
        ({"SLURM_JOB_CPUS_PER_NODE": "1(x2),3"}, 1),  # salloc
        ({"SLURM_JOB_CPUS_PER_NODE": "4096"}, ALLOWED),
        ({"SLURM_CPUS_ON_NODE": ""}, ALLOWED),
    ],
)
def test_no_more_cores_are_used_than_slurm_has_granted(tmp_path: Path, granted: dict[str, str], cpus: int) -> None:
    assert usable_cpus(tmp_path, granted) == cpus


@pytest.mark.parametrize(
    "granted", [{"SLURM_MEM_PER_NODE": "256"}, {"SLURM_MEM_PER_CPU": "128", "SLURM_CPUS_ON_NODE": "2"}]
)
def test_no_more_memory_is_counted_than_slurm_has_granted(tmp_path: Path, granted: dict[str, str]) -> None:
    memory = usable_memory(tmp_path, granted)
    assert memory.total == 256 * 2**20
    assert memory.available <= memory.total


def test_memory_that_slurm_does_not_limit_is_that_of_the_machine(tmp_path: Path) -> None:
    for nothing in ("0", "UNLIMITED", "4G"):
        assert usable_memory(tmp_path, {"SLURM_MEM_PER_NODE": nothing}).total == psutil.virtual_memory().total


# Recorded in a step of SLURM 22.05 (task/cgroup with ConstrainCores and ConstrainRAMSpace) of a job with --mem=3G; of
# memory.stat two lines. The kernel counts a kill in the group of the victim under version 1: the last line is changed.
STEP_1 = {
    "proc/vmstat": "pgfault 7\noom_kill 5\n",
    "proc/self/cgroup": (
        "9:name=systemd:/\n8:pids:/\n7:blkio:/\n6:freezer:/\n5:devices:/\n"
        "4:memory:/slurm_n1/uid_1/job_1/step_0/task_0\n"
        "3:cpuset:/slurm_n1/uid_1/job_1/step_0\n2:cpuacct:/\n1:cpu:/\n0::/\n"
    ),
    "proc/self/mountinfo": (
        "83 82 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
        "84 83 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
        "86 83 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
        "87 83 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "92 83 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n"
        "93 83 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    ),
    **{
        f"sys/fs/cgroup/memory/slurm_n1/{place}/memory.{name}": f"{content}\n"
        for place, limit, usage, peak, inactive in (
            ("uid_1", 9223372036854771712, 449961984, 450662400, 0),
            ("uid_1/job_1", 3221225472, 450650112, 450650112, 0),
            ("uid_1/job_1/step_0", 3221225472, 442761216, 442761216, 0),
            ("uid_1/job_1/step_0/task_0", 9223372036854771712, 439754752, 440541184, 118784),
        )
        for name, content in {
            "limit_in_bytes": limit,
            "usage_in_bytes": usage,
            "max_usage_in_bytes": peak,
            "stat": f"inactive_file {inactive}\ntotal_inactive_file 122880",
        }.items()
    },
    "sys/fs/cgroup/memory/slurm_n1/uid_1/job_1/step_0/memory.oom_control": (
        "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"
    ),
    "sys/fs/cgroup/memory/slurm_n1/uid_1/job_1/step_0/task_0/memory.oom_control": (
        "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"
    ),
}
SERVICE_2 = {
    **VERSION_2,
    "proc/vmstat": "oom_kill 5\n",
    "sys/fs/cgroup/system.slice/train.service/memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n",
    "sys/fs/cgroup/system.slice/train.service/memory.peak": "1073741824\n",
}
# Not recorded: the hierarchy of SLURM's documentation (doc/html/cgroup_v2.shtml, "Hierarchy overview"), with files and
# formats of the kernel's (Documentation/admin-guide/cgroup-v2.rst). Events of a group count in those above it as well.
SCOPE = "sys/fs/cgroup/system.slice/slurmstepd.scope"
STEP_2 = {
    "proc/vmstat": "oom_kill 5\n",
    "proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_3385/step_0/user/task_0\n",
    "proc/self/mountinfo": VERSION_2["proc/self/mountinfo"],
    **{
        f"{SCOPE}/{place}/{name}": f"{content}\n"
        for place, limit in (
            ("job_3385", "3221225472"),
            ("job_3385/step_0", "3221225472"),
            ("job_3385/step_0/user", "3221225472"),
            ("job_3385/step_0/user/task_0", "max"),
        )
        for name, content in {
            "cpu.max": "max 100000",
            "cpuset.cpus.effective": "0",
            "memory.max": limit,
            "memory.current": "450650112",
            "memory.peak": "450650112",
            "memory.stat": "anon 431169536\nfile 1314816\ninactive_anon 431169536\ninactive_file 122880",
            "memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0",
        }.items()
    },
}


@pytest.mark.parametrize("files", [STEP_1, STEP_2], ids=["version 1", "version 2"])
def test_a_step_of_slurm_has_the_memory_of_its_job_without_what_is_cached(
    tmp_path: Path, files: dict[str, str]
) -> None:
    memory = usable_memory(recorded(tmp_path, files), NO_SLURM)
    machine = psutil.virtual_memory()
    assert memory.total == min(3 * 2**30, machine.total)
    assert memory.available <= 3 * 2**30 - (450650112 - 122880)
    assert usable_cpus(tmp_path, NO_SLURM) == ALLOWED, "cores are limited by affinity, without a quota"


@pytest.mark.parametrize(
    ("files", "limit", "peak"),
    [(STEP_1, "3.00", "0.41"), (STEP_2, "3.00", "0.42"), (SERVICE_2, "1.00", "1.00")],
    ids=["step, version 1", "step, version 2", "service, version 2"],
)
def test_a_kill_for_the_limit_of_the_own_control_group_is_told_with_limit_and_peak(
    tmp_path: Path, files: dict[str, str], limit: str, peak: str
) -> None:
    found = kills_for_memory(recorded(tmp_path, files))
    assert (found.machine, found.group) == (5, 1)
    said = f"the processes of this job may use {limit} GiB of memory (peak: {peak} GiB)"
    assert found.over_limit(replace(found, group=0)) == said
    assert found.over_limit(found) is None


def test_a_kill_elsewhere_on_the_machine_meets_no_limit_of_this_process(tmp_path: Path) -> None:
    found = kills_for_memory(recorded(tmp_path, {**UNLIMITED_1, "proc/vmstat": "oom_kill 5\n"}))
    assert (found.machine, found.group, found.limit) == (5, 0, None)
    assert found.over_limit(replace(found, machine=4)) is None


def test_affinity_limits_the_cores_of_a_process() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from reproduce.limits import usable_cpus; print(usable_cpus())"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout.strip() == b"1"


@contextlib.contextmanager
def real_control_group(controller: str, limits: dict[str, str], limits_2: dict[str, str]) -> Iterator[str]:
    """Create a control group with limits of version 1 or 2; yield code with which a Python process joins it."""
    unified = Path("/sys/fs/cgroup")
    version_2 = (unified / "cgroup.procs").exists()
    group = (unified if version_2 else unified / controller) / f"test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be created: {error}")
    try:
        try:
            for name, value in (limits_2 if version_2 else limits).items():
                (group / name).write_text(value, encoding="utf-8")
        except OSError as error:
            pytest.skip(f"a control group has no {controller} controller here: {error}")
        yield f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    finally:
        group.rmdir()


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout.decode().strip()


COUNT = "from reproduce.limits import usable_cpus; print(usable_cpus())"
USE_TOO_MUCH = """
from reproduce.limits import kills_for_memory, usable_memory
before, total = kills_for_memory(), usable_memory().total
if os.fork() == 0:
    open("/proc/self/oom_score_adj", "w").write("1000")
    os._exit(len(b"x" * 2**29) % 2)
_, status = os.wait()
print(total, os.WTERMSIG(status), kills_for_memory().over_limit(before))
"""


def test_the_quota_of_a_real_control_group_is_found() -> None:
    with real_control_group("cpu", {"cpu.cfs_quota_us": "100000"}, {"cpu.max": "100000 100000"}) as join:
        assert printed(join + COUNT) == "1"


def test_the_cores_of_a_real_control_group_are_counted() -> None:
    cores = {"cpuset.cpus": str(min(os.sched_getaffinity(0))), "cpuset.mems": "0"}
    with real_control_group("cpuset", cores, cores) as join:
        assert printed(join + COUNT) == "1"


def test_the_memory_of_a_real_control_group_is_found_and_a_kill_for_it_told() -> None:
    size, names = str(2**28), ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    limits, limits_2 = dict.fromkeys(names, size), {"memory.max": size, "memory.swap.max": "0"}
    with real_control_group("memory", limits, limits_2) as join:
        said = "the processes of this job may use 0.25 GiB of memory (peak: 0.25 GiB)"
        assert printed(join + USE_TOO_MUCH) == f"{2**28} 9 {said}"
