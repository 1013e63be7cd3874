use super::*;

const V2_MOUNT: &str = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

fn read(files: &[(&str, &str)]) -> Groups {
    Groups::read(&Files::given(files))
}

#[test]
fn of_the_second_version_the_narrowest_group_around_counts() {
    let groups = read(&[
        ("/proc/self/cgroup", "0::/user.slice/app.scope\n"),
        ("/proc/self/mountinfo", V2_MOUNT),
        ("/sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n"),
        ("/sys/fs/cgroup/user.slice/app.scope/memory.current", "1000\n"),
        ("/sys/fs/cgroup/user.slice/memory.max", "1073741824\n"),
        ("/sys/fs/cgroup/user.slice/memory.current", "73741824\n"),
        ("/sys/fs/cgroup/user.slice/app.scope/cpu.max", "max 100000\n"),
        ("/sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n"),
        ("/sys/fs/cgroup/user.slice/app.scope/pids.max", "512\n"),
        ("/sys/fs/cgroup/user.slice/app.scope/pids.current", "12\n"),
        ("/sys/fs/cgroup/user.slice/app.scope/cpuset.cpus.effective", "0-3,8\n"),
        ("/sys/fs/cgroup/user.slice/cpuset.cpus.effective", "0-15\n"),
    ]);
    assert_eq!(
        groups,
        Groups {
            version: "v2",
            memory: Use { most: Some(1 << 30), used: Some(73_741_824) },
            pids: Use { most: Some(512), used: Some(12) },
            quota: Some(Quota { quota: 150_000, period: 100_000 }),
            cpus: Some(vec![0, 1, 2, 3, 8]),
        }
    );
    assert_eq!(groups.quota.unwrap().whole(), 1);
    let items = items(&Files::given(&[]), &groups);
    let of = |name: &str| items.iter().find(|item| item.name == name).unwrap();
    assert_eq!(
        (of("cgroup.cpu").state, of("cgroup.cpu").value.as_str()),
        (State::Warn, "1.50 processors")
    );
    assert_eq!(of("cgroup.memory").state, State::Ok);
    assert_eq!(of("cgroup.pids").value, "512, 500 free");
    assert_eq!(of("cgroup.cpuset").value, "0-3,8");
}

#[test]
fn of_the_first_version_each_controller_has_a_hierarchy_of_its_own() {
    let mountinfo = "\
        31 26 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        32 26 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 26 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        34 26 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";
    let groups = read(&[
        ("/proc/self/cgroup", "5:cpuset:/a\n4:memory:/a/b\n3:cpu,cpuacct:/a\n2:pids:/\n"),
        ("/proc/self/mountinfo", mountinfo),
        ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "50331648\n"),
        ("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "41943040\n"),
        ("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "400000\n"),
        ("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"),
        ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
        ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ("/sys/fs/cgroup/pids/pids.max", "max\n"),
        ("/sys/fs/cgroup/cpuset/a/cpuset.cpus", "2-3\n"),
    ]);
    assert_eq!(
        groups,
        Groups {
            version: "v1",
            memory: Use { most: Some(48 << 20), used: Some(40 << 20) },
            pids: Use::default(),
            quota: Some(Quota { quota: 400_000, period: 100_000 }),
            cpus: Some(vec![2, 3]),
        }
    );
    let items = items(&Files::given(&[]), &groups);
    let states: Vec<_> = items.iter().map(|item| (item.name, item.state)).collect();
    assert_eq!(
        states,
        [
            ("cgroup.version", State::Ok),
            ("cgroup.memory", State::Warn),
            ("cgroup.cpu", State::Note),
            ("cgroup.pids", State::Ok),
            ("cgroup.cpuset", State::Ok),
        ]
    );
}

#[test]
fn of_both_versions_each_controller_is_read_where_it_is() {
    let mountinfo = "31 26 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n".to_owned()
        + &V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ");
    let groups = read(&[
        ("/proc/self/cgroup", "4:memory:/a\n1:name=systemd:/a\n0::/u\n"),
        ("/proc/self/mountinfo", &mountinfo),
        ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000000\n"),
        ("/sys/fs/cgroup/unified/u/cpu.max", "max 100000\n"),
        ("/sys/fs/cgroup/unified/u/pids.max", "max\n"),
    ]);
    assert_eq!((groups.version, groups.memory.most), ("v1 and v2", Some(1_000_000)));
    assert_eq!((groups.quota, groups.pids), (None, Use::default()));
}

#[test]
fn a_container_sees_its_own_group_at_the_root() {
    // The path is told from the host's root, and the container's own group is mounted.
    let mountinfo = "30 25 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    for own in ["0::/docker/abc\n", "0::/\n", "0::/../../other\n"] {
        let groups = read(&[
            ("/proc/self/cgroup", own),
            ("/proc/self/mountinfo", mountinfo),
            ("/sys/fs/cgroup/memory.max", "268435456\n"),
            ("/sys/fs/cgroup/memory.current", "268435456\n"),
        ]);
        assert_eq!(groups.memory.room(), Some(0), "{own}");
    }
}

#[test]
fn without_files_or_with_nonsense_nothing_is_known() {
    assert_eq!(read(&[]), Groups::default());
    let files = [
        ("/proc/self/cgroup", "nonsense\n::\n1\n"),
        ("/proc/self/mountinfo", "x - y\n1 2 3 - cgroup\n"),
    ];
    assert_eq!(read(&files), Groups::default());
    for files in [&[][..], &files] {
        let files = Files::given(files);
        let items = items(&files, &Groups::read(&files));
        assert_eq!(items.len(), 1);
        assert!(items[0].value.starts_with("not known") && items[0].state == State::Note);
    }
    // A mount that something else hides.
    let hidden = [("/proc/self/cgroup", "0::/\n"), ("/proc/self/mountinfo", V2_MOUNT)];
    assert_eq!(read(&hidden), Groups::default());
    let root = [hidden[0], hidden[1], ("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n")];
    assert_eq!(read(&root), Groups { version: "v2", ..Groups::default() });
    let files = [
        ("/proc/self/cgroup", "0::/a\n"),
        ("/proc/self/mountinfo", V2_MOUNT),
        ("/sys/fs/cgroup/a/memory.max", "-5\n"),
        ("/sys/fs/cgroup/a/cpu.max", "1 0\n"),
        ("/sys/fs/cgroup/a/pids.max", "99999999999999999999\n"),
        ("/sys/fs/cgroup/a/cpuset.cpus.effective", "a-b\n"),
    ];
    assert_eq!(read(&files), Groups { version: "v2", ..Groups::default() });
}
