"""CPU quota and memory limit of control groups, from file trees made here (cgroups(7), proc(5))."""

from __future__ import annotations

import pytest

from llama_rt import _native


class Tree:
    """A fake root with /proc/self/cgroup, /proc/self/mountinfo and cgroup directories."""

    def __init__(self, root):
        self.root = root
        (root / "proc/self").mkdir(parents=True)
        self.groups, self.mounts = [], []

    def group(self, line):
        self.groups.append(line)
        (self.root / "proc/self/cgroup").write_text("".join(g + "\n" for g in self.groups))

    def mount(self, point, kind, options, root="/", optional="shared:9 "):
        number = 30 + len(self.mounts)
        self.mounts.append(
            f"{number} 23 0:{number} {root} {point} rw,relatime {optional}- {kind} {kind} {options}"
        )
        other = "22 1 0:20 / / rw - ext4 /dev/vda rw"
        lines = [other, *self.mounts]
        (self.root / "proc/self/mountinfo").write_text("".join(m + "\n" for m in lines))

    def write(self, path, text):
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def v2(self, path="/", root="/", point="/sys/fs/cgroup"):
        self.group(f"0::{path}")
        self.mount(point, "cgroup2", "rw", root)

    def v1(self, controllers, path="/", root="/", point=None):
        point = point or f"/sys/fs/cgroup/{controllers}"
        self.group(f"{len(self.groups) + 1}:{controllers}:{path}")
        self.mount(point, "cgroup", f"rw,{controllers}", root)

    def v1_quota(self, folder, quota, period=100000):
        self.write(f"{folder}/cpu.cfs_quota_us", f"{quota}\n")
        self.write(f"{folder}/cpu.cfs_period_us", f"{period}\n")

    @property
    def quota(self):
        return _native.cgroup_quota(str(self.root))

    @property
    def limit(self):
        return _native.cgroup_memory_limit(str(self.root))

    @property
    def memory(self):
        return _native.cgroup_available_memory(str(self.root))


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


class TestQuotaV2:
    def test_own_group(self, tree):
        tree.v2("/app")
        tree.write("/sys/fs/cgroup/app/cpu.max", "150000 100000\n")
        assert tree.quota == 1.5

    def test_no_limit(self, tree):
        tree.v2("/app")
        tree.write("/sys/fs/cgroup/app/cpu.max", "max 100000\n")
        assert tree.quota == 0

    @pytest.mark.parametrize("tight", ["/", "/a", "/a/b", "/a/b/c"])
    def test_tightest_level_wins(self, tree, tight):
        tree.v2("/a/b/c")
        for level in ("/a", "/a/b", "/a/b/c"):
            tree.write(f"/sys/fs/cgroup{level}/cpu.max", "800000 100000\n")
        tree.write(f"/sys/fs/cgroup{tight}/cpu.max", "250000 100000\n")
        assert tree.quota == 2.5

    def test_period_left_out(self, tree):
        tree.v2()
        tree.write("/sys/fs/cgroup/cpu.max", "300000\n")
        assert tree.quota == 3

    def test_container_without_namespace(self, tree):
        """The mount shows only the container's part of the hierarchy."""
        tree.v2("/docker/abc/inner", root="/docker/abc")
        tree.write("/sys/fs/cgroup/cpu.max", "400000 100000\n")
        tree.write("/sys/fs/cgroup/inner/cpu.max", "200000 100000\n")
        assert tree.quota == 2

    def test_process_outside_of_its_namespace(self, tree):
        tree.v2("/../../elsewhere")
        tree.write("/sys/fs/cgroup/cpu.max", "400000 100000\n")
        tree.write("/elsewhere/cpu.max", "100000 100000\n")
        assert tree.quota == 4

    def test_group_that_is_not_visible(self, tree):
        tree.v2("/kubepods/pod1", root="/other")
        tree.write("/sys/fs/cgroup/cpu.max", "700000 100000\n")
        assert tree.quota == 7

    def test_folder_name_that_only_begins_alike(self, tree):
        tree.v2("/docker/abcdef", root="/docker/abc")
        tree.write("/sys/fs/cgroup/cpu.max", "700000 100000\n")
        tree.write("/sys/fs/cgroupdef/cpu.max", "100000 100000\n")
        assert tree.quota == 7

    def test_mount_point_with_a_space(self, tree):
        tree.v2("/app", point=r"/my\040groups")
        tree.write("/my groups/app/cpu.max", "120000 100000\n")
        assert tree.quota == 1.2

    @pytest.mark.parametrize("text", ["", "\n", "garbage", "0 100000", "-5 100000", "1 0", "5 x"])
    def test_nonsense_is_no_limit(self, tree, text):
        tree.v2()
        tree.write("/sys/fs/cgroup/cpu.max", text)
        assert tree.quota == 0

    def test_no_optional_fields(self, tree):
        tree.group("0::/")
        tree.mount("/sys/fs/cgroup", "cgroup2", "rw", optional="")
        tree.write("/sys/fs/cgroup/cpu.max", "50000 100000\n")
        assert tree.quota == 0.5


class TestQuotaV1:
    def test_own_group(self, tree):
        tree.v1("cpu,cpuacct", "/docker/x")
        tree.v1_quota("/sys/fs/cgroup/cpu,cpuacct/docker/x", 350000)
        assert tree.quota == 3.5

    def test_other_period(self, tree):
        tree.v1("cpu")
        tree.v1_quota("/sys/fs/cgroup/cpu", 10000, 5000)
        assert tree.quota == 2

    def test_no_limit(self, tree):
        tree.v1("cpu")
        tree.v1_quota("/sys/fs/cgroup/cpu", -1)
        assert tree.quota == 0

    def test_parent_is_tighter(self, tree):
        tree.v1("cpuacct,cpu", "/a/b")
        tree.v1_quota("/sys/fs/cgroup/cpuacct,cpu/a/b", 800000)
        tree.v1_quota("/sys/fs/cgroup/cpuacct,cpu/a", 100000)
        assert tree.quota == 1

    def test_other_controllers_do_not_count(self, tree):
        tree.v1("cpuset")
        tree.v1_quota("/sys/fs/cgroup/cpuset", 100000)
        assert tree.quota == 0

    def test_hybrid(self, tree):
        """v1 carries the controller; v2 is mounted beside it and knows nothing of CPU time."""
        tree.v1("cpu", "/job")
        tree.v2("/job", point="/sys/fs/cgroup/unified")
        tree.v1_quota("/sys/fs/cgroup/cpu/job", 600000)
        tree.write("/sys/fs/cgroup/unified/job/cgroup.procs", "1\n")
        assert tree.quota == 6

    def test_nothing_there(self, tree):
        assert tree.quota == 0
        assert tree.memory is None


class TestMemory:
    def test_v2_counts_file_cache_as_free(self, tree):
        tree.v2("/a")
        folder = "/sys/fs/cgroup/a"
        tree.write(f"{folder}/memory.max", "1000000\n")
        tree.write(f"{folder}/memory.current", "700000\n")
        stat = "anon 100000\ninactive_file 200000\nactive_file 50000\nfile 600000\n"
        tree.write(f"{folder}/memory.stat", stat)
        assert tree.memory == 550000

    def test_v2_high_and_parents(self, tree):
        tree.v2("/a/b")
        for level, limit in (("/a", 900), ("/a/b", 1000)):
            tree.write(f"/sys/fs/cgroup{level}/memory.max", f"{limit}\n")
            tree.write(f"/sys/fs/cgroup{level}/memory.current", "100\n")
        assert (tree.limit, tree.memory) == (900, 800)
        tree.write("/sys/fs/cgroup/a/b/memory.high", "400\n")
        assert (tree.limit, tree.memory) == (400, 300)

    def test_v2_no_limit(self, tree):
        tree.v2()
        tree.write("/sys/fs/cgroup/memory.max", "max\n")
        tree.write("/sys/fs/cgroup/memory.high", "max\n")
        assert tree.limit is tree.memory is None

    def test_v1(self, tree):
        tree.v1("memory", "/x")
        folder = "/sys/fs/cgroup/memory/x"
        tree.write(f"{folder}/memory.limit_in_bytes", "5000\n")
        tree.write(f"{folder}/memory.usage_in_bytes", "4500\n")
        tree.write(
            f"{folder}/memory.stat",
            "inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 7\n",
        )
        assert (tree.limit, tree.memory) == (5000, 807)

    def test_v1_word_for_no_limit(self, tree):
        tree.v1("memory")
        tree.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
        assert tree.limit is tree.memory is None

    def test_over_the_limit_is_nothing_left(self, tree):
        tree.v2()
        tree.write("/sys/fs/cgroup/memory.max", "1000\n")
        tree.write("/sys/fs/cgroup/memory.current", "2000\n")
        assert tree.memory == 0
