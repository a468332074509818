//! How much memory there is and how much is used; giving freed memory back.
//!
//! A container's limits are read from control groups, of version 2 and of version 1. The smallest limit on the way from
//! the process's own group up to the root is the one that kills.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::thread;

/// Where control groups are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// A limit from here on is none: version 1 writes the largest whole page below 2⁶³ where nothing is set.
const NO_LIMIT: u64 = 1 << 60;

/// What is assumed where nothing says how much memory there is, bytes: the least that Cloud Run gives.
const ASSUMED_BYTES: u64 = 512 << 20;

/// Size of the block whose return makes the allocator look for memory to give back, bytes. Larger than every size that
/// allocators keep in lists of their own.
const LARGE_BLOCK_BYTES: usize = 1 << 20;

/// How much memory there is for the worker, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes; never 0.
    pub bytes: u64,
    /// Where the figure comes from, for people.
    pub found_in: &'static str,
}

/// The memory that the worker may use: `override_mb` MiB when it is not 0, else the smallest limit of the container, else
/// the machine's memory.
pub fn limit(override_mb: u64) -> MemoryLimit {
    if override_mb > 0 {
        return MemoryLimit { bytes: override_mb.saturating_mul(1 << 20), found_in: "CONCEPT_MEMORY_LIMIT_MB" };
    }
    let machine = machine_bytes();
    limit_under(Path::new(CGROUP_ROOT), &self_cgroup())
        // Some sandboxes show the host's control groups; the machine's memory is theirs then.
        .filter(|found| machine.is_none_or(|machine| found.bytes <= machine))
        .or(machine.map(|bytes| MemoryLimit { bytes, found_in: "the machine's memory" }))
        .unwrap_or(MemoryLimit { bytes: ASSUMED_BYTES, found_in: "an assumption" })
}

/// The smallest memory limit of control groups mounted at `root`, for a process whose /proc/self/cgroup is `self_cgroup`.
fn limit_under(root: &Path, self_cgroup: &str) -> Option<MemoryLimit> {
    let own = Groups::parse(self_cgroup);
    let smallest = |folders: Vec<PathBuf>, file: &str, found_in| {
        let limits = folders.into_iter().filter_map(|folder| number(&folder.join(file)));
        let least = limits.filter(|bytes| (1..NO_LIMIT).contains(bytes)).min()?;
        Some(MemoryLimit { bytes: least, found_in })
    };
    let v2 = smallest(own.folders_v2(root), "memory.max", "memory.max of the container");
    let v1 = smallest(
        own.folders_v1(root, "memory", &["memory"]),
        "memory.limit_in_bytes",
        "memory.limit_in_bytes of the container",
    );
    [v2, v1].into_iter().flatten().min_by_key(|limit| limit.bytes)
}

/// How many threads can compute at once: the container's share of processors, rounded up, at most what the machine has and
/// at least 1.
pub fn cpu_quota() -> usize {
    let machine = thread::available_parallelism().map_or(1, usize::from);
    quota_under(Path::new(CGROUP_ROOT), &self_cgroup()).map_or(machine, |quota| quota.clamp(1, machine))
}

/// The smallest quota of control groups mounted at `root`, in whole processors, rounded up.
fn quota_under(root: &Path, self_cgroup: &str) -> Option<usize> {
    let own = Groups::parse(self_cgroup);
    let processors = |quota: u64, period: u64| {
        let whole = quota.checked_div(period)? + u64::from(!quota.is_multiple_of(period));
        usize::try_from(whole).ok().filter(|&whole| whole > 0)
    };
    let v2 = own.folders_v2(root).into_iter().filter_map(|folder| {
        let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        processors(quota.parse().ok()?, period.parse().ok()?)
    });
    let v1 = own.folders_v1(root, "cpu", &["cpu", "cpu,cpuacct"]).into_iter().filter_map(|folder| {
        // -1 means no quota, and is no number here.
        processors(number(&folder.join("cpu.cfs_quota_us"))?, number(&folder.join("cpu.cfs_period_us"))?)
    });
    v2.chain(v1).min()
}

/// The memory that the process holds now, bytes; 0 where that is unknown. Takes some ten microseconds.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").ok();
    status.as_deref().and_then(resident_of_status).unwrap_or_else(|| {
        let Ok(pid) = sysinfo::get_current_pid() else { return 0 };
        let Ok(mut system) = sysinfo::System::new() else { return 0 };
        system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[pid]), true);
        system.process(pid).map_or(0, sysinfo::Process::memory)
    })
}

/// The resident bytes in the text of /proc/self/status.
fn resident_of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Has the allocator return freed memory to the system.
///
/// The program's allocator keeps what is freed for a purge delay (1 s unless MIMALLOC_PURGE_DELAY says other milliseconds)
/// and looks for what is overdue only when a large block comes back. So one is taken and given back here. What was freed within
/// the delay stays until the next call: call it once a second while there is work and a while afterwards. It costs
/// microseconds when there is nothing to return.
pub fn give_back() {
    let block: Vec<u8> = Vec::with_capacity(LARGE_BLOCK_BYTES);
    // The optimiser may leave out a block that nobody looks at.
    drop(std::hint::black_box(block));
}

/// The text of /proc/self/cgroup; empty where there is none.
fn self_cgroup() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// The machine's memory, bytes.
fn machine_bytes() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    Some(system.total_memory()).filter(|bytes| *bytes > 0)
}

/// The number in a file that holds one and nothing else.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The process's groups, from /proc/self/cgroup: lines of `hierarchy:controllers:path`.
struct Groups<'a> {
    lines: Vec<(&'a str, &'a Path)>,
}

impl<'a> Groups<'a> {
    fn parse(self_cgroup: &'a str) -> Self {
        let line = |line: &'a str| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            Some((controllers, Path::new(path)))
        };
        Self { lines: self_cgroup.lines().filter_map(line).collect() }
    }

    /// Folders of version 2, the innermost first. Where both versions are mounted, version 2 lies under `unified`.
    fn folders_v2(&self, root: &Path) -> Vec<PathBuf> {
        let own = self.path_of(str::is_empty);
        [root.to_owned(), root.join("unified")].iter().flat_map(|mount| upwards(mount, own)).collect()
    }

    /// Folders of a controller of version 1, which is mounted under one of `mounts`, the innermost first.
    fn folders_v1(&self, root: &Path, controller: &str, mounts: &[&str]) -> Vec<PathBuf> {
        let own = self.path_of(|names| names.split(',').any(|name| name == controller));
        mounts.iter().flat_map(|mount| upwards(&root.join(mount), own)).collect()
    }

    fn path_of(&self, wanted: impl Fn(&str) -> bool) -> &'a Path {
        self.lines.iter().find(|(controllers, _)| wanted(controllers)).map_or(Path::new("/"), |(_, path)| path)
    }
}

/// `mount` with `own` below it, and every folder on the way up to `mount`. In a container the path can be the one that the
/// host sees: its folders do not exist then, and the mount itself is the container's group.
fn upwards(mount: &Path, own: &Path) -> Vec<PathBuf> {
    // A group outside the process's view is written with `..`.
    let plain = own.components().filter(|part| matches!(part, Component::Normal(_)));
    let mut folders = vec![mount.to_owned()];
    for part in plain {
        let deeper = folders.last().map(|folder| folder.join(part));
        folders.extend(deeper);
    }
    folders.reverse();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as control groups would fill it.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn bytes(files: &[(&str, &str)], self_cgroup: &str) -> Option<u64> {
        limit_under(tree(files).path(), self_cgroup).map(|limit| limit.bytes)
    }

    fn quota(files: &[(&str, &str)], self_cgroup: &str) -> Option<usize> {
        quota_under(tree(files).path(), self_cgroup)
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_is_taken() {
        let files = [
            ("memory.max", "max\n"),
            ("a/memory.max", "536870912\n"),
            ("a/b/memory.max", "1073741824\n"),
            ("a/b/c/memory.max", "max\n"),
        ];
        assert_eq!(bytes(&files, "0::/a/b/c\n"), Some(512 << 20));
        assert_eq!(bytes(&files[2..], "0::/a/b/c\n"), Some(1 << 30));
    }

    #[test]
    fn a_limit_beside_the_way_up_does_not_count() {
        assert_eq!(bytes(&[("other/memory.max", "1000"), ("a/memory.max", "max")], "0::/a\n"), None);
    }

    #[test]
    fn version_1_is_read_and_its_largest_number_means_none() {
        let own = "11:pids:/x\n4:cpu,cpuacct:/x\n3:memory:/x/y\n";
        let none = ("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let files = [none, ("memory/x/memory.limit_in_bytes", "268435456\n")];
        assert_eq!(bytes(&files, own), Some(256 << 20));
        assert_eq!(bytes(&[none], own), None);
    }

    #[test]
    fn a_container_that_sees_its_hosts_path_finds_its_limit_at_the_mount() {
        assert_eq!(bytes(&[("memory/memory.limit_in_bytes", "1048576")], "3:memory:/docker/0123\n"), Some(1 << 20));
        assert_eq!(bytes(&[("memory.max", "1048576")], "0::/../../kubepods/x\n"), Some(1 << 20));
    }

    #[test]
    fn with_both_versions_mounted_the_smaller_limit_wins() {
        let files = [("unified/a/memory.max", "2000000"), ("memory/b/memory.limit_in_bytes", "1000000")];
        assert_eq!(bytes(&files, "3:memory:/b\n0::/a\n"), Some(1_000_000));
        assert_eq!(bytes(&files[..1], "3:memory:/b\n0::/a\n"), Some(2_000_000));
    }

    #[test]
    fn nonsense_is_no_limit() {
        for text in ["", "0", "-1", "many", "12 34", "99999999999999999999999"] {
            assert_eq!(bytes(&[("memory.max", text)], "0::/\n"), None, "{text:?}");
        }
        assert_eq!(bytes(&[], "no lines: of this\nform"), None);
    }

    #[test]
    fn a_group_cannot_name_a_folder_outside_its_mount() {
        let files = [("secret/memory.max", "1000"), ("mount/x", "")];
        let root = tree(&files);
        assert_eq!(limit_under(&root.path().join("mount"), "0::/../secret\n"), None);
    }

    #[test]
    fn the_override_goes_before_everything() {
        assert_eq!(limit(300), MemoryLimit { bytes: 300 << 20, found_in: "CONCEPT_MEMORY_LIMIT_MB" });
        assert_eq!(limit(u64::MAX).bytes, u64::MAX);
    }

    #[test]
    fn without_an_override_the_limit_is_at_most_the_machines_memory() {
        let found = limit(0);
        assert!(found.bytes > 1 << 20, "{found:?}");
        assert!(machine_bytes().is_none_or(|machine| found.bytes <= machine), "{found:?}");
    }

    #[test]
    fn a_quota_is_rounded_up_to_whole_processors() {
        assert_eq!(quota(&[("cpu.max", "150000 100000\n")], "0::/\n"), Some(2));
        assert_eq!(quota(&[("cpu.max", "200000 100000\n")], "0::/\n"), Some(2));
        assert_eq!(quota(&[("cpu.max", "8000 100000\n")], "0::/\n"), Some(1));
        assert_eq!(quota(&[("cpu.max", "max 100000\n")], "0::/\n"), None);
        assert_eq!(quota(&[("a/cpu.max", "300000 100000"), ("cpu.max", "100000 100000")], "0::/a\n"), Some(1));
        assert_eq!(quota(&[("cpu.max", "1 0")], "0::/\n"), None);
    }

    #[test]
    fn a_quota_of_version_1_is_read() {
        let set = [("cpu,cpuacct/x/cpu.cfs_quota_us", "250000"), ("cpu,cpuacct/x/cpu.cfs_period_us", "100000")];
        assert_eq!(quota(&set, "4:cpu,cpuacct:/x\n"), Some(3));
        let unset = [("cpu/cpu.cfs_quota_us", "-1"), ("cpu/cpu.cfs_period_us", "100000")];
        assert_eq!(quota(&unset, "4:cpu:/\n"), None);
    }

    #[test]
    fn there_is_always_a_processor() {
        assert!((1..=thread::available_parallelism().unwrap().get()).contains(&cpu_quota()));
    }

    #[test]
    fn resident_memory_is_read_from_the_kernels_text() {
        assert_eq!(resident_of_status("VmHWM:\t  900 kB\nVmRSS:\t  512 kB\nRssAnon: 1 kB\n"), Some(512 * 1024));
        assert_eq!(resident_of_status("Name: x\n"), None);
    }

    #[test]
    fn touched_memory_shows_up_as_resident() {
        const SIZE: u64 = 64 << 20;
        let before = resident_bytes();
        let held = vec![1_u8; SIZE as usize];
        let with = resident_bytes();
        drop(std::hint::black_box(held));
        // Other tests of the process allocate and free at the same time.
        assert!(with > before.saturating_sub(SIZE / 2) && with >= SIZE, "{before} {with}");
    }
}
